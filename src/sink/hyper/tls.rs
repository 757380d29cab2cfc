//! TLS: whom to trust, and what to speak inside it.

use std::{env, io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{InvalidDnsNameError, ServerName},
};
use rustls_native_certs::CertificateResult;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{SinkError, connect::Stream};

/// Opens TLS over a stream.
pub(super) struct Tls {
    /// To a webhook: HTTP/2 where it speaks that, else HTTP/1.1.
    webhook: TlsConnector,
    /// To a proxy: HTTP/1.1, which tunnels are asked for in.
    proxy: TlsConnector,
}

/// Why TLS does not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the host is not a name that a certificate can have")]
    Name(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Handshake(#[from] io::Error),
}

impl Tls {
    /// TLS 1.2 and 1.3 with servers that `roots` vouch for.
    pub(super) fn new(roots: RootCertStore) -> Result<Self, SinkError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(SinkError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let proxy = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { webhook: TlsConnector::from(Arc::new(config)), proxy })
    }

    /// Opens TLS to the webhook `name`, and says whether it chose HTTP/2.
    pub(super) async fn to_webhook(&self, name: &str, stream: Stream) -> Result<(Stream, bool), TlsError> {
        let stream = handshake(&self.webhook, name, stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), http2))
    }

    /// Opens TLS to the proxy `name`.
    pub(super) async fn to_proxy(&self, name: &str, stream: Stream) -> Result<Stream, TlsError> {
        Ok(Box::new(handshake(&self.proxy, name, stream).await?))
    }
}

async fn handshake(tls: &TlsConnector, name: &str, stream: Stream) -> Result<TlsStream<Stream>, TlsError> {
    let name = ServerName::try_from(name)?.to_owned();
    Ok(tls.connect(name, stream).await?)
}

/// The certificates that this system trusts, or that the environment names instead.
pub(super) fn system_roots() -> Result<RootCertStore, SinkError> {
    let file_named = env::var_os("SSL_CERT_FILE").is_some();
    let dir_named = env::var_os("SSL_CERT_DIR").is_some();
    trusted(rustls_native_certs::load_native_certs(), file_named, file_named || dir_named)
}

/// What to trust of what was found: a file that was named must be right, the rest may have flaws.
fn trusted(found: CertificateResult, file_named: bool, named: bool) -> Result<RootCertStore, SinkError> {
    let mut flaws = found.errors.into_iter();
    if file_named && let Some(flaw) = flaws.next() {
        return Err(SinkError::CertFile(flaw));
    }
    for error in flaws {
        tracing::warn!(%error, "a trusted certificate cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::warn!(unusable, "trusted certificates that cannot be used");
    }
    if !roots.is_empty() {
        return Ok(roots);
    }
    if named {
        return Err(SinkError::NoCertificates);
    }
    tracing::warn!("the system trusts no certificate; using those that come with k8vent");
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustls_native_certs::load_certs_from_paths;

    use super::*;

    fn found(name: &str, pem: &str) -> CertificateResult {
        let path = env::temp_dir().join(format!("k8vent-{}-{name}.pem", std::process::id()));
        fs::write(&path, pem).unwrap();
        let found = load_certs_from_paths(Some(&path), None);
        fs::remove_file(&path).unwrap();
        found
    }

    fn certificate() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new([]).unwrap().self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_named_file_is_trusted_alone() {
        assert_eq!(trusted(found("good", &certificate()), true, true).unwrap().len(), 1);
    }

    #[test]
    fn a_named_file_that_is_missing_or_malformed_is_an_error() {
        let missing = load_certs_from_paths(Some(Path::new("/nowhere/at/all.pem")), None);
        assert!(matches!(trusted(missing, true, true), Err(SinkError::CertFile(_))));
        let malformed = certificate().replace('=', "").replace("MII", "*");
        let malformed = found("malformed", &malformed);
        assert!(matches!(trusted(malformed, true, true), Err(SinkError::CertFile(_))));
    }

    #[test]
    fn a_named_place_without_certificates_is_an_error() {
        for text in ["", "not a certificate\n"] {
            let result = trusted(found("empty", text), true, true);
            assert!(matches!(result, Err(SinkError::NoCertificates)), "{result:?}");
        }
        assert!(matches!(trusted(CertificateResult::default(), false, true), Err(SinkError::NoCertificates)));
    }

    #[test]
    fn a_flaw_in_the_system_costs_only_itself() {
        let mut system = load_certs_from_paths(Some(Path::new("/nowhere/at/all.pem")), None);
        assert_eq!(system.errors.len(), 1);
        system.certs = found("system", &certificate()).certs;
        system.certs.push(vec![1, 2, 3].into());
        assert_eq!(trusted(system, false, false).unwrap().len(), 1);
    }

    #[test]
    fn a_system_without_certificates_gets_ours() {
        let roots = trusted(CertificateResult::default(), false, false).unwrap();
        assert_eq!(roots.len(), webpki_roots::TLS_SERVER_ROOTS.len());
    }
}
