//! The certificate authorities that are trusted.

use std::{env, path::PathBuf};

use rustls::RootCertStore;

/// The variable by which one names the authorities to trust, as OpenSSL and Go read it.
const FILE: &str = "SSL_CERT_FILE";

/// The authorities cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file that was named holds none.
    #[error("SSL_CERT_FILE: no certificate in {0:?}: is it a file of certificates in PEM?")]
    NoneInFile(PathBuf, #[source] Option<rustls_native_certs::Error>),
}

/// The system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name; where there are none, as in an
/// empty image, Mozilla's, bundled.
pub fn system_or_bundled() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    let mut errors = found.errors;
    if let (0, Some(file)) = (added, env::var_os(FILE)) {
        return Err(RootsError::NoneInFile(file.into(), errors.pop()));
    }
    if added == 0 {
        tracing::debug!("the system has no certificate authorities: trusting the bundled ones");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    }
    for error in errors {
        tracing::warn!(%error, "certificate authority ignored");
    }
    if ignored > 0 {
        tracing::warn!(ignored, "certificate authorities ignored: they cannot be read");
    }
    Ok(roots)
}
