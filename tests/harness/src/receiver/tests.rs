use std::{sync::Arc, time::Instant};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(50);

type Poster = Client<HttpConnector, Full<bytes::Bytes>>;

fn poster() -> Poster {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn post(poster: &Poster, receiver: &Receiver, body: &str) -> Result<Response<Incoming>, Error> {
    let request = Request::post(receiver.url("/hook?x=1")).header("ce-id", "uid.1").body(Full::from(body.to_owned()));
    poster.request(request.unwrap()).await
}

#[tokio::test]
async fn a_request_is_recorded_as_it_came() {
    let (receiver, poster) = (Receiver::http().await.unwrap(), poster());
    assert_eq!(post(&poster, &receiver, r#"{"pod": 1}"#).await.unwrap().status(), 204);
    let first = receiver.wait_for(LIMIT, |requests| requests.len() == 1).await.unwrap().remove(0);
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/hook?x=1"));
    assert_eq!((first.header("ce-id"), first.connection), (Some("uid.1"), 1));
    assert_eq!(first.body, r#"{"pod": 1}"#);
    assert_eq!(first.json()["pod"], 1);
    assert_eq!((receiver.count(), receiver.connections()), (1, 1));
}

#[tokio::test]
async fn what_does_not_come_is_told_with_what_was_there() {
    let (receiver, poster) = (Receiver::http().await.unwrap(), poster());
    post(&poster, &receiver, "there").await.unwrap();
    let missing = receiver.wait_for(MOMENT, |requests| requests.len() == 2).await.unwrap_err().to_string();
    assert!(missing.contains("1 requests") && missing.contains("POST /hook?x=1 uid.1, 5 bytes: there"), "{missing}");
}

#[tokio::test]
async fn the_answer_is_the_one_told_last() {
    let (receiver, poster) = (Receiver::http().await.unwrap(), poster());
    receiver.answer(Answer::StatusWithRetryAfter(429, "7".to_owned()));
    let answer = post(&poster, &receiver, "").await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    receiver.answer(Answer::Redirect("http://elsewhere.example/".to_owned()));
    let answer = post(&poster, &receiver, "").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (307, &"http://elsewhere.example/".parse().unwrap())
    );
    receiver.answer(Answer::BodyOf("body".into()));
    let answer = post(&poster, &receiver, "").await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "body");
    receiver.answer_with(|request| Answer::Status(if request.body == "good" { 200 } else { 400 }));
    assert_eq!(post(&poster, &receiver, "good").await.unwrap().status(), 200);
    assert_eq!(post(&poster, &receiver, "bad").await.unwrap().status(), 400);
}

#[tokio::test]
async fn it_hangs_closes_and_goes_on_for_ever_when_told() {
    let (receiver, poster) = (Receiver::http().await.unwrap(), poster());
    receiver.answer(Answer::Hang);
    assert!(timeout(MOMENT, post(&poster, &receiver, "hangs")).await.is_err());
    receiver.answer(Answer::CloseEarly);
    assert!(post(&poster, &receiver, "closes").await.is_err());
    receiver.answer(Answer::ACCEPTED.after(MOMENT));
    let began = Instant::now();
    post(&poster, &receiver, "waits").await.unwrap();
    assert!(began.elapsed() >= MOMENT);
    receiver.answer(Answer::EndlessBody);
    let mut body = post(&poster, &receiver, "endless").await.unwrap().into_body();
    let mut read = 0;
    while read < 10_000_000 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    assert_eq!(receiver.count(), 4);
}

#[tokio::test]
async fn down_refuses_and_up_answers_at_the_same_address() {
    let (receiver, poster) = (Receiver::http().await.unwrap(), poster());
    for round in 1..=3 {
        post(&poster, &receiver, "up").await.unwrap();
        receiver.down().await;
        assert_eq!(receiver.open_connections(), 0);
        assert!(post(&poster, &receiver, "down").await.is_err());
        receiver.up().await.unwrap();
        assert_eq!(receiver.count(), round);
    }
}

#[tokio::test]
async fn https_is_trusted_by_its_own_authority_alone_and_only_by_its_names() {
    let receiver = Receiver::https().await.unwrap();
    let other = Receiver::https_as(&["elsewhere.example"]).await.unwrap();
    assert_eq!(receiver.url("/"), format!("https://{}/", receiver.address()));
    assert!(handshake(&receiver, receiver.ca_pem()).await);
    assert!(!handshake(&receiver, other.ca_pem()).await);
    assert!(!handshake(&other, other.ca_pem()).await);
}

async fn handshake(receiver: &Receiver, trusted: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(receiver.address()).await.unwrap();
    let name = ServerName::IpAddress(receiver.address().ip().into());
    tokio_rustls::TlsConnector::from(config).connect(name, stream).await.is_ok()
}

/// Not a law but a figure, for whoever changes the receiver: run it with `--ignored --nocapture --release`.
#[tokio::test]
#[ignore = "measures"]
async fn how_many_requests_a_second() {
    for keep in [true, false] {
        let (receiver, poster) = (Arc::new(Receiver::http().await.unwrap()), poster());
        receiver.keep_requests(keep);
        let (began, body) = (Instant::now(), "x".repeat(6_000));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (receiver, poster, body) = (Arc::clone(&receiver), poster.clone(), body.clone());
            tasks.spawn(async move {
                for _ in 0..3_000 {
                    let answer = post(&poster, &receiver, &body).await.unwrap();
                    answer.into_body().collect().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        let rate = f64::from(48_000) / began.elapsed().as_secs_f64();
        println!("keep {keep}: {rate:.0} requests a second, {} connections", receiver.connections());
    }
}
