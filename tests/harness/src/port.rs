//! Loopback ports that stay ours.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};

/// A loopback port that nobody else is given while this lives.
///
/// The port is held by a socket that is bound and does not listen: connections to it are refused until a listener with
/// `SO_REUSEPORT` (ours, or that of a child process that is told to share the port) comes up beside it.
pub(crate) struct Port {
    _held: TcpSocket,
    number: u16,
}

impl Port {
    pub(crate) fn reserve() -> io::Result<Self> {
        let held = shared_socket()?;
        held.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let number = held.local_addr()?.port();
        Ok(Self { _held: held, number })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// Listens on the port; has to be called on a runtime.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let socket = shared_socket()?;
        socket.bind(self.address())?;
        socket.listen(1024)
    }
}

fn shared_socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_refuses_until_it_listens_and_listens_again_after_it_closed() {
        let port = Port::reserve().unwrap();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address()).await.is_err());
            let listener = port.listen().unwrap();
            let client = TcpStream::connect(port.address()).await.unwrap();
            drop((listener.accept().await.unwrap(), client));
        }
    }

    #[test]
    fn no_port_is_reserved_twice() {
        let ports: Vec<_> = (0..200).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }
}
