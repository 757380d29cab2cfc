//! What a webhook answered.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// How much of an answer's body is read.
///
/// Only the status counts. The body is read so that the connection can be used again, and past 64 KiB a new connection
/// is cheaper than the rest of the body.
pub(super) const BODY_CAP_BYTES: usize = 64 * 1024;

/// An answer that was read to its end or to the cap.
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// How long the webhook asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Whether it was read to its end.
    pub(super) whole: bool,
}

impl Answer {
    /// Reads an answer, and throws its body away.
    pub(super) async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let whole = read_to_cap(response.into_body()).await?;
        Ok(Self { status, retry_after, whole })
    }
}

/// Whether the body ended before the cap.
async fn read_to_cap(mut body: Incoming) -> Result<bool, hyper::Error> {
    let mut read = 0;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await.transpose()? else { break };
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > BODY_CAP_BYTES {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads `Retry-After` of RFC 9110, section 10.2.3: seconds, or a date. A date that has passed means at once.
///
/// `None` is a value in neither form. More seconds than a number can hold are as many as it can.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_either_form() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        #[rustfmt::skip]
        let table = [
            ("0", seconds(0)),
            ("120", seconds(120)),
            (" 7 ", seconds(7)),
            ("99999999999999999999999", seconds(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(0)),
            ("Sun, 06 Nov 1994 08:49:38 GMT", seconds(1)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", seconds(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", seconds(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", seconds(86_400)),
            // The two older forms that RFC 9110 has recipients accept.
            ("Sunday, 06-Nov-94 08:50:37 GMT", seconds(60)),
            ("Sun Nov  6 08:50:37 1994", seconds(60)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("10 s", None),
            ("1, 2", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ];
        for (value, expected) in table {
            assert_eq!(retry_after(&HeaderValue::from_static(value), now), expected, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderValue::from_bytes(b"\xff").unwrap(), now), None);
    }
}
