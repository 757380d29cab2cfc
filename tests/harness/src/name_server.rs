//! A name server that knows one name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use simple_dns::{
    CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, SimpleDnsError, TYPE,
    rdata::{A, RData},
};
use tokio::net::UdpSocket;

use crate::background::Background;

/// Answers that a name is `127.0.0.1`, and that there are no others.
pub struct NameServer {
    address: IpAddr,
    answered: Arc<AtomicU64>,
    _background: Background,
}

impl NameServer {
    /// Starts a server for `name` on the port that every resolver asks, at a loopback address of its own: port 53 needs
    /// root, or the capability `CAP_NET_BIND_SERVICE`.
    pub fn start(name: &'static str) -> io::Result<Self> {
        // Of the process, so that two runs at a time are not in each other's way.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = IpAddr::from(Ipv4Addr::new(127, 53, high, low));
        let socket = std::net::UdpSocket::bind(SocketAddr::new(address, 53))?;
        socket.set_nonblocking(true)?;
        let background = Background::start("name server");
        let answered = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&answered);
        background.handle().spawn(async move {
            let socket = UdpSocket::from_std(socket).expect("the runtime takes sockets");
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                // What is no question gets no answer.
                let Ok(reply) = answer(name, &buffer[..length]) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = socket.send_to(&reply, from).await;
            }
        });
        Ok(Self { address, answered, _background: background })
    }

    /// What `/etc/resolv.conf` has to say.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\n", self.address)
    }

    /// How many questions it has answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

fn answer(name: &str, question: &[u8]) -> Result<Vec<u8>, SimpleDnsError> {
    let mut reply = Packet::parse(question)?.into_reply();
    let asked = reply.questions.first().ok_or(SimpleDnsError::InsufficientData)?;
    let known = asked.qname.to_string().eq_ignore_ascii_case(name);
    if !known {
        *reply.rcode_mut() = RCODE::NameError;
    } else if asked.qtype == QTYPE::TYPE(TYPE::A) {
        let address = RData::A(A { address: Ipv4Addr::LOCALHOST.into() });
        reply.answers.push(ResourceRecord::new(asked.qname.clone(), CLASS::IN, 1, address));
    }
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    reply.build_bytes_vec()
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, QCLASS, Question};

    use super::*;

    fn asked(name: &str, of: TYPE) -> (RCODE, usize) {
        let mut packet = Packet::new_query(7);
        let question = Question::new(Name::new(name).unwrap(), QTYPE::TYPE(of), QCLASS::CLASS(CLASS::IN), false);
        packet.questions.push(question);
        let reply = answer("receiver.test", &packet.build_bytes_vec().unwrap()).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!((reply.id(), reply.has_flags(PacketFlag::RESPONSE)), (7, true));
        (reply.rcode(), reply.answers.len())
    }

    #[test]
    fn it_knows_one_name_and_one_address() {
        assert_eq!(asked("receiver.test", TYPE::A), (RCODE::NoError, 1));
        assert_eq!(asked("receiver.test", TYPE::AAAA), (RCODE::NoError, 0));
        assert_eq!(asked("other.test", TYPE::A), (RCODE::NameError, 0));
        assert!(answer("receiver.test", b"rubbish").is_err());
    }
}
