//! The requests to the stand-in and their answers.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::{BodyExt, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::sleep};

use crate::stand_in::{
    Fault, Kind, Seen, Shared, render,
    request::Target,
    state::{State, Watch},
    store::Gone,
    watch_body::{Piece, StandInBody, WatchBody},
};

type Answer = Response<StandInBody>;

pub(super) async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| respond(request, Arc::clone(&shared)));
    // A client that goes away in the middle is what tests do, and so is breaking a connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let seen = Seen::new(&head.method, &head.uri, &head.headers);
    let fault = shared.state().faults.take(seen.kind);
    let record = || shared.seen.send_modify(|all| all.push(seen.clone()));
    let usual = || usual(&mut shared.state(), &seen, &body);
    let Some(fault) = fault else {
        // Only now: what a test does when it sees the request must not change the answer.
        let answer = usual();
        record();
        return Ok(answer);
    };
    record();
    Ok(match fault {
        Fault::Slow(delay) => {
            sleep(delay).await;
            usual()
        }
        Fault::Hang => std::future::pending().await,
        Fault::Close => return Err(io::Error::other("told to close")),
        Fault::Refuse(code) => refuse(&render::status(code, None)),
        Fault::RefuseRetryAfter(code, seconds) => {
            let mut answer = refuse(&render::status(code, Some(seconds)));
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            answer
        }
        Fault::Answer(code, content_type, body) => {
            let mut answer = Response::new(StandInBody::Whole(Full::new(body)));
            *answer.status_mut() = StatusCode::from_u16(code).expect("the test names a status");
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            answer
        }
        Fault::CutAfter(length) => cut(usual(), length).await,
        Fault::EndlessList { fresh_tokens } => endless_page(&mut shared.state(), &seen, fresh_tokens),
        Fault::ErrorEvent(code, retry_after) => {
            whole(StatusCode::OK, render::error_event(&render::status(code, retry_after)))
        }
    })
}

/// The answer of a server that works.
fn usual(state: &mut State, seen: &Seen, body: &Bytes) -> Answer {
    let target = Target::of(&seen.path);
    match (seen.kind, target) {
        (Kind::List, Target::Pods(namespace)) => list(state, seen, namespace.as_deref()),
        (Kind::Watch, Target::Pods(namespace)) => watch(state, seen, namespace),
        (Kind::StreamingList, Target::Pods(namespace)) => streaming_list(state, seen, namespace),
        (Kind::Get, Target::Pod(namespace, name)) => match state.store.get(&namespace, &name) {
            Some(pod) => whole(StatusCode::OK, pod),
            None => refuse(&render::not_found(&name)),
        },
        (_, Target::Pods(namespace)) if seen.method == Method::POST => create(state, namespace, body),
        (_, Target::Pod(namespace, name)) if seen.method == Method::DELETE => match state.delete(&namespace, &name) {
            Some((_, last)) => whole(StatusCode::OK, last),
            None => refuse(&render::not_found(&name)),
        },
        (_, target) => match state.leases.answer(&seen.method, target, body) {
            Some((code, lease)) => whole(code, lease.to_string().into()),
            None => other(&seen.path),
        },
    }
}

fn list(state: &mut State, seen: &Seen, namespace: Option<&str>) -> Answer {
    let limit = seen.number("limit").and_then(|limit| usize::try_from(limit).ok());
    let token = seen.query.get("continue").filter(|token| !token.is_empty());
    match state.store.list(namespace, limit, token.map(String::as_str)) {
        Ok(page) => whole(StatusCode::OK, page),
        Err(Gone(status)) => refuse(&status),
    }
}

fn watch(state: &mut State, seen: &Seen, namespace: Option<String>) -> Answer {
    let version = seen.number("resourceVersion").filter(|version| *version > 0);
    let before = match version {
        None => state.store.initial_events(namespace.as_deref()),
        Some(version) => match state.store.since(version, namespace.as_deref()) {
            Ok(changes) => changes,
            // As a real server says it: the watch is opened and ended at once.
            Err(Gone(status)) => return whole(StatusCode::OK, render::error_event(&status)),
        },
    };
    open(state, seen, namespace, before)
}

fn streaming_list(state: &mut State, seen: &Seen, namespace: Option<String>) -> Answer {
    if !state.streaming_lists {
        return refuse(&render::no_streaming_lists());
    }
    let mut before = state.store.initial_events(namespace.as_deref());
    if seen.query.get("allowWatchBookmarks").is_some_and(|allow| allow == "true" || allow == "1") {
        before.push(render::bookmark(state.store.version(), true));
    }
    open(state, seen, namespace, before)
}

fn open(state: &mut State, seen: &Seen, namespace: Option<String>, before: Vec<Bytes>) -> Answer {
    let bookmarks = seen.query.get("allowWatchBookmarks").is_some_and(|allow| allow == "true" || allow == "1");
    let limit = seen.number("timeoutSeconds").map(|seconds| sleep(Duration::from_secs(seconds)));
    let (sender, body) = WatchBody::new(limit);
    state.open(Watch { namespace, bookmarks, sender }, before);
    json(StatusCode::OK, StandInBody::Watch(body))
}

fn endless_page(state: &mut State, seen: &Seen, fresh_tokens: bool) -> Answer {
    state.tokens += u64::from(fresh_tokens);
    let limit = seen.number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let items: Vec<_> = state.store.all().into_iter().map(|stored| stored.item).take(limit).collect();
    let token = format!("endless-{}", state.tokens);
    whole(StatusCode::OK, render::list(state.store.version(), Some(&token), 1, &items))
}

fn create(state: &mut State, namespace: Option<String>, body: &[u8]) -> Answer {
    let Ok(mut pod) = serde_json::from_slice::<Value>(body) else { return refuse(&render::status(400, None)) };
    let Some(name) = pod["metadata"]["name"].as_str().map(str::to_owned) else {
        return refuse(&render::status(422, None));
    };
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    pod["metadata"]["namespace"] = namespace.clone().into();
    state.put(&pod);
    let created = state.store.get(&namespace, &name).expect("it was created just now");
    whole(StatusCode::CREATED, created)
}

fn other(path: &str) -> Answer {
    if ["/livez", "/readyz", "/healthz"].contains(&path) {
        return whole(StatusCode::OK, Bytes::from_static(b"ok"));
    }
    match render::discovery(path) {
        Some(document) => whole(StatusCode::OK, document.to_string().into()),
        None => refuse(&render::status(404, None)),
    }
}

/// An answer of which only the beginning arrives.
async fn cut(answer: Answer, length: usize) -> Answer {
    let (head, StandInBody::Whole(body)) = answer.into_parts() else {
        panic!("only whole answers are cut here: disturb a watch instead");
    };
    let bytes = body.collect().await.map_or_else(|never| match never {}, Collected::to_bytes);
    let (sender, body) = WatchBody::new(None);
    for piece in [Piece::Data(bytes.slice(..length.min(bytes.len()))), Piece::Break] {
        // The receiver is in our hands.
        let _ = sender.send(piece);
    }
    Response::from_parts(head, StandInBody::Watch(body))
}

fn refuse(status: &Value) -> Answer {
    whole(render::code(status), status.to_string().into())
}

fn whole(code: StatusCode, body: Bytes) -> Answer {
    json(code, StandInBody::Whole(Full::new(body)))
}

fn json(code: StatusCode, body: StandInBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
