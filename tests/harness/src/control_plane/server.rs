//! The two processes: how each is started, and how long it may take.

use std::{
    fs::File,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::ServerName, pki_types::pem::PemObject,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    control_plane::ControlPlaneError,
    guard::{self, GuardedChild},
    port::Port,
    text::tail,
};

/// Both are ready within three seconds on two idle cores; a machine that builds beside it is many times slower.
const READY_LIMIT: Duration = Duration::from_mins(2);
/// Between two looks at a component that does not tell when it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// An etcd, always on the same ports.
pub(super) struct EtcdServer {
    binary: PathBuf,
    folder: PathBuf,
    client: Port,
    peer: Port,
    running: Mutex<Option<Component>>,
}

impl EtcdServer {
    pub(super) async fn start(binary: &Path, folder: &Path) -> Result<Self, ControlPlaneError> {
        let [client, peer] = [Port::reserve()?, Port::reserve()?];
        let (binary, folder) = (binary.to_owned(), folder.to_owned());
        let this = Self { binary, folder, client, peer, running: Mutex::new(None) };
        this.start_again().await?;
        Ok(this)
    }

    /// Starts it on what is in its folder.
    pub(super) async fn start_again(&self) -> Result<(), ControlPlaneError> {
        let (url, peer_url) = (self.url(), format!("http://{}", self.peer.address()));
        // The folder is swept by this watcher alone: it is the store that goes last.
        let mut command = guard::command(&self.binary, Some(&self.folder));
        command
            .arg(format!("--data-dir={}", self.data().display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=default={peer_url}"))
            .args(["--socket-reuse-port=true", "--unsafe-no-fsync=true", "--log-level=warn"]);
        let mut component = Component::spawn("etcd", command, &self.folder)?;
        let address = self.client.address();
        component.ready(|| async move { get_ok(TcpStream::connect(address).await?, "/readyz").await }).await?;
        *self.running.lock().await = Some(component);
        Ok(())
    }

    /// Kills it as a crash would.
    pub(super) async fn stop(&self) {
        *self.running.lock().await = None;
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.client.address())
    }

    /// The folder of its data.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    pub(super) async fn process_id(&self) -> Option<u32> {
        self.running.lock().await.as_ref().map(|component| component.child.id())
    }
}

/// A running kube-apiserver, on a port that no earlier one had.
pub(super) struct ApiServer {
    component: Component,
    port: Port,
}

impl ApiServer {
    pub(super) async fn start(binary: &Path, folder: &Path, etcd: &str) -> Result<Self, ControlPlaneError> {
        let port = Port::reserve()?;
        let file = |name: &str| folder.join(name).display().to_string();
        let mut command = guard::command(binary, None);
        command
            .arg(format!("--etcd-servers={etcd}"))
            .arg(format!("--secure-port={}", port.number()))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--permit-port-sharing=true"])
            .arg(format!("--tls-cert-file={}", file("apiserver.crt")))
            .arg(format!("--tls-private-key-file={}", file("apiserver.key")))
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-signing-key-file={}", file("service-account.key")))
            .arg(format!("--service-account-key-file={}", file("service-account.pub")))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
            // Nothing runs that would create the service account which this plugin gives to every pod.
            .arg("--disable-admission-plugins=ServiceAccount")
            .args(["--endpoint-reconciler-type=none", "--profiling=false"]);
        let mut component = Component::spawn("kube-apiserver", command, folder)?;
        let (address, connector) = (port.address(), trusting(&folder.join("ca.crt"))?);
        component.ready(|| ready_over_tls(address, connector.clone())).await?;
        Ok(Self { component, port })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn process_id(&self) -> u32 {
        self.component.child.id()
    }
}

/// A process with a log.
struct Component {
    name: &'static str,
    child: GuardedChild,
    log: PathBuf,
}

impl Component {
    fn spawn(name: &'static str, mut command: Command, folder: &Path) -> io::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Ok(Self { name, child: GuardedChild::spawn(command)?, log })
    }

    /// Asks until the answer is yes, the process ends or the limit is over.
    async fn ready<F: Future<Output = io::Result<bool>>>(
        &mut self,
        mut ask: impl FnMut() -> F,
    ) -> Result<(), ControlPlaneError> {
        let asking = async {
            loop {
                if let Some(status) = self.child.ended() {
                    return Err(format!("ended before it was ready ({status})"));
                }
                if ask().await.unwrap_or(false) {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
            }
        };
        let late = || Err(format!("was not ready after {} s", READY_LIMIT.as_secs()));
        let ready = timeout(READY_LIMIT, asking).await.unwrap_or_else(|_| late());
        ready.map_err(|what| ControlPlaneError::NotReady { component: self.name, what, log: tail(&self.log, 20) })
    }
}

fn trusting(ca: &Path) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ready_over_tls(address: SocketAddr, connector: TlsConnector) -> io::Result<bool> {
    let name = ServerName::IpAddress(address.ip().into());
    let stream = connector.connect(name, TcpStream::connect(address).await?).await?;
    get_ok(stream, "/readyz").await
}

/// One GET on a fresh connection: whether the answer is 200.
async fn get_ok(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> io::Result<bool> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(status.starts_with(b"HTTP/1.") && status.ends_with(b" 200"))
}
