//! What somebody wants to know who looks at night: `/status` of `--listen`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::pod::ResourceVersion;

/// So many endpoints are shown; the others are counted.
const SHOWN: usize = 50;

/// Where the state is posted for those who ask. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Status>>);

/// What is going on, as of an instant.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Whether this replica sends.
    pub role: Role,
    /// What is read and sent; none while another replica does it.
    pub work: Option<Work>,
}

/// Whether a replica sends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// There is no Lease.
    #[default]
    Alone,
    /// It waits for the Lease of this name.
    Standby(String),
    /// It holds the Lease of this name.
    Leader(String),
}

/// What is read and sent.
#[derive(Debug, Clone)]
pub struct Work {
    /// When this was so.
    pub now: Instant,
    /// How many pods are known.
    pub pods: usize,
    /// Up to where everything has been read.
    pub seen: Option<ResourceVersion>,
    /// When the API server last told something.
    pub told: Instant,
    /// Whether requests may be sent.
    pub may_send: bool,
    /// The state directory, if there is one.
    pub disk: Option<Disk>,
    /// The endpoints with a queue, those with the longest wait first.
    pub endpoints: Vec<Line>,
}

/// The state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that it takes.
    pub bytes: u64,
    /// Since when it cannot be written, if so.
    pub failing: Option<Instant>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The URL without its secrets.
    pub endpoint: String,
    /// How many pods have a state that waits or is in flight.
    pub pods: usize,
    /// Since when the oldest of the states waits.
    pub since: Option<Instant>,
    /// Whether it is down, and probed.
    pub is_down: bool,
    /// How the last attempt ended, and when.
    pub last: Option<(&'static str, Instant)>,
    /// When the next attempt is due.
    pub next: Option<Instant>,
    /// Up to where everything has ended; `None` when nothing is left.
    pub ended: Option<ResourceVersion>,
}

impl Board {
    /// Posts the role; the work of the role before is over.
    pub fn role(&self, role: Role) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Status { role, work: None };
    }

    /// Posts the work.
    pub fn work(&self, mut work: Work) {
        work.endpoints
            .sort_by(|a, b| (a.since.is_none(), a.since, &a.endpoint).cmp(&(b.since.is_none(), b.since, &b.endpoint)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).work = Some(work);
    }

    /// What was posted last.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "k8vent {}", env!("CARGO_PKG_VERSION"))?;
        match &self.role {
            Role::Alone => writeln!(f, "role       alone: there is no Lease")?,
            Role::Standby(lease) => writeln!(f, "role       standby: waits for the Lease {lease}")?,
            Role::Leader(lease) => writeln!(f, "role       leader: holds the Lease {lease}")?,
        }
        self.work.as_ref().map_or(Ok(()), |work| work.fmt(f))
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { now, pods, seen, told, may_send, disk, endpoints } = self;
        match seen {
            Some(seen) => write!(f, "watch      {pods} pods, everything read up to resource version {seen}")?,
            None => write!(f, "watch      {pods} pods, the list is not complete")?,
        }
        writeln!(f, "; the API server last told something {} ago", Span(now.duration_since(*told)))?;
        if !may_send {
            writeln!(f, "sending    paused: the Lease cannot be renewed")?;
        }
        match disk {
            Some(Disk { failing: Some(since), .. }) => {
                let since = Span(now.duration_since(*since));
                writeln!(f, "state dir  has not been written for {since}: see the log")?;
            }
            Some(Disk { bytes, .. }) => writeln!(f, "state dir  {bytes} bytes")?,
            None => {}
        }
        let down = endpoints.iter().filter(|line| line.is_down).count();
        writeln!(f, "endpoints  {}, {down} of them down\n", endpoints.len())?;
        for line in endpoints.iter().take(SHOWN) {
            line.write(*now, f)?;
        }
        match endpoints.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "and {more} more"),
        }
    }
}

impl Line {
    fn write(&self, now: Instant, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, pods, since, is_down, last, next, ended } = self;
        writeln!(f, "{} {endpoint}", if *is_down { "down" } else { "up  " })?;
        match (pods, since) {
            (0, _) => writeln!(f, "     nothing waits")?,
            (_, None) => writeln!(f, "     {pods} under way")?,
            (_, Some(since)) => {
                writeln!(f, "     {pods} waiting, the oldest for {}", Span(now.duration_since(*since)))?;
            }
        }
        match last {
            Some((result, at)) => write!(f, "     last attempt {} ago: {result}", Span(now.duration_since(*at)))?,
            None => write!(f, "     no attempt yet")?,
        }
        if let Some(next) = next {
            write!(f, "; next in {}", Span(next.duration_since(now)))?;
        }
        match ended {
            Some(ended) => writeln!(f, "; position {ended}"),
            None => writeln!(f),
        }
    }
}

/// A length of time as people say it: the two greatest of its units.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
            (0, 0, 0, seconds) => write!(f, "{seconds} s"),
            (0, 0, minutes, seconds) => write!(f, "{minutes} min {seconds} s"),
            (0, hours, minutes, _) => write!(f, "{hours} h {minutes} min"),
            (days, hours, ..) => write!(f, "{days} d {hours} h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(endpoint: &str, since: Option<Instant>) -> Line {
        Line {
            endpoint: endpoint.to_owned(),
            pods: usize::from(since.is_some()),
            since,
            is_down: false,
            last: None,
            next: None,
            ended: None,
        }
    }

    fn work(endpoints: Vec<Line>, now: Instant) -> Work {
        let seen = Some(ResourceVersion(812));
        Work {
            now,
            pods: 3,
            seen,
            told: now - Duration::from_secs(2),
            may_send: true,
            disk: Some(Disk { bytes: 4096, failing: None }),
            endpoints,
        }
    }

    #[test]
    fn the_longest_wait_comes_first_and_says_what_is_next() {
        let now = Instant::now() + Duration::from_hours(2);
        let board = Board::default();
        board.role(Role::Leader("k8vent/k8vent".to_owned()));
        let late = Line {
            pods: 12,
            is_down: true,
            last: Some(("5xx", now - Duration::from_secs(9))),
            next: Some(now + Duration::from_secs(75)),
            ended: Some(ResourceVersion(700)),
            ..line("http://late/", Some(now - Duration::from_secs(4000)))
        };
        board.work(work(vec![line("http://idle/", None), late], now));
        let lines = board.status().to_string();
        let expected = [
            concat!("k8vent ", env!("CARGO_PKG_VERSION")),
            "role       leader: holds the Lease k8vent/k8vent",
            "watch      3 pods, everything read up to resource version 812; the API server last told something 2 s ago",
            "state dir  4096 bytes",
            "endpoints  2, 1 of them down",
            "",
            "down http://late/",
            "     12 waiting, the oldest for 1 h 6 min",
            "     last attempt 9 s ago: 5xx; next in 1 min 15 s; position 700",
            "up   http://idle/",
            "     nothing waits",
            "     no attempt yet",
        ];
        assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_shown_is_bounded() {
        let now = Instant::now() + Duration::from_hours(1);
        let board = Board::default();
        board.work(work((0..SHOWN + 7).map(|n| line(&format!("http://{n}/"), None)).collect(), now));
        assert!(board.status().to_string().ends_with("and 7 more\n"));
    }

    #[test]
    fn a_standby_shows_no_work() {
        let board = Board::default();
        board.work(work(vec![], Instant::now() + Duration::from_hours(1)));
        board.role(Role::Standby("a/b".to_owned()));
        assert_eq!(board.status().to_string().lines().count(), 2);
    }
}
