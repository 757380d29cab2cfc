//! A sink that prints: `--dry-run`.

use std::io::Write;

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::{
    endpoint::Endpoint,
    sink::{Fault, Outcome, Stage, WebhookSink},
};

/// Prints each request as it would be sent, but for credentials and signatures, and posts nothing. Every state counts
/// as accepted.
#[derive(Debug, Default)]
pub struct PrintSink;

impl WebhookSink for PrintSink {
    async fn post(&self, request: Request<Bytes>) -> Outcome {
        match print(&mut std::io::stdout().lock(), &request) {
            Ok(()) => Outcome::Answered { status: StatusCode::NO_CONTENT, retry_after: None },
            Err(error) => Outcome::Unreachable(Fault { stage: Stage::Exchange, source: error.into() }),
        }
    }
}

fn print(out: &mut impl Write, request: &Request<Bytes>) -> std::io::Result<()> {
    let url = request.uri().to_string();
    let shown = url.parse::<Endpoint>().map_or_else(|_| "?".to_owned(), |endpoint| endpoint.label().to_owned());
    writeln!(out, "{} {shown}", request.method())?;
    for (name, value) in request.headers() {
        let value = if is_secret(name.as_str()) { "…" } else { value.to_str().unwrap_or("?") };
        writeln!(out, "{name}: {value}")?;
    }
    writeln!(out)?;
    out.write_all(request.body())?;
    writeln!(out, "\n")?;
    out.flush()
}

/// Of headers that `--header` brings nothing is known: only ours are shown whole.
fn is_secret(name: &str) -> bool {
    !(name.starts_with("ce-") || ["user-agent", "content-type", "webhook-id", "webhook-timestamp"].contains(&name))
}
