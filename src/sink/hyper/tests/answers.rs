//! What is made of an answer, and what a request looks like.

use std::time::Duration;

use super::{
    Outcome, plain, post, request,
    server::{Server, answer},
    status, within,
};
use crate::sink::WebhookSink;

#[tokio::test]
async fn any_status_is_an_answer() {
    for code in [200, 204, 301, 307, 400, 404, 410, 429, 500, 503] {
        let server = Server::http1(move || async move { answer(code) }).await;
        assert_eq!(status(&post(&plain(), &server.url()).await), code);
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::http1(|| async { answer(204) }).await;
    let location = elsewhere.url();
    let server = Server::http1(move || {
        let mut redirect = answer(308);
        redirect.headers_mut().insert("location", location.parse().unwrap());
        async { redirect }
    })
    .await;
    assert_eq!(status(&post(&plain(), &server.url()).await), 308);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn retry_after_is_told() {
    let server = Server::http1(|| async {
        let mut busy = answer(503);
        busy.headers_mut().insert("retry-after", "120".parse().unwrap());
        busy
    })
    .await;
    let outcome = post(&plain(), &server.url()).await;
    let Outcome::Answered { retry_after, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(retry_after, Some(Duration::from_mins(2)));
}

#[tokio::test]
async fn a_request_is_sent_as_it_came_with_its_host() {
    let server = Server::http1(|| async { answer(204) }).await;
    let mut request = request(&server.url());
    request.headers_mut().insert("ce-id", "1.2".parse().unwrap());
    assert_eq!(status(&within("a post", plain().post(request)).await), 204);
    let head = server.last_head();
    assert!(head.starts_with("POST /hook?key=1 "), "{head}");
    for header in [
        format!(r#""host": "{}""#, server.address),
        r#""ce-id": "1.2""#.into(),
        r#""content-type": "application/json""#.into(),
        r#""content-length": "19""#.into(),
    ] {
        assert!(head.contains(&header), "{header} in {head}");
    }
}
