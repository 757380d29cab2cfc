//! List and watch of one scope, as a state machine that never ends.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    api::{Api, From},
    error::ReadError,
    event::Event,
    lines::{LONGEST, Line, Lines},
};
use crate::{
    backoff::Backoff,
    chain::Chain,
    pod::{PodId, ResourceVersion, Unreadable},
    source::{PodEvent, Scope, What},
};

/// How long a watch may be silent before it counts as dead. The API server sends a bookmark every minute; two in a row
/// may be missed.
const SILENCE: Duration = Duration::from_secs(150);

/// How long a streaming list may be silent: a server that is too old for it does not send the bookmark at its end.
const LIST_SILENCE: Duration = Duration::from_secs(30);

/// How long a list of pages may take. The API server forgets the version that a list began with after five to ten
/// minutes anyway.
const LIST_LIMIT: Duration = Duration::from_mins(10);

/// A watch is asked to last between this and twice this, so that the watches of many clients do not end together; as
/// client-go does it.
const WATCH: Duration = Duration::from_mins(5);

/// A watch that tells nothing new and ends sooner than this has failed. Bookmarks are nothing new here: a server may
/// send one at the start of each watch, and always another.
const SHORTEST: Duration = Duration::from_secs(10);

/// The longest wait that the API server may ask for.
const RETRY_AFTER_CAP: Duration = Duration::from_mins(1);

/// So often a watch from a version may be refused before a list is tried: the version may be one that the API server
/// has never had, as after a restore of its store.
const REFUSALS: u32 = 3;

/// Reads one scope.
pub(super) struct Reader {
    api: Api,
    scope: Scope,
    state: State,
    /// Whether the API server knows streaming lists, as far as we know.
    streams: bool,
    /// Failures since a watch told something.
    failures: u32,
    /// So often in a row the version to resume at was refused.
    refusals: u32,
    /// So often the API server had forgotten the version, with no watch between that lasted.
    gone: u32,
    /// From the first of these that is remembered everything is to be told, once the first list is complete.
    since: VecDeque<ResourceVersion>,
    /// The version of the last complete list.
    listed: ResourceVersion,
    /// What is to be told before anything else is read.
    told: VecDeque<What>,
}

enum State {
    /// A list is to be begun.
    Listing,
    /// The list goes on with the page of this name.
    Paging { next: String, before: Option<PodId>, since: Instant },
    /// A watch brings the list.
    Streaming(Lines),
    /// A watch is to be opened.
    Resuming(ResourceVersion),
    /// A watch tells what happens after the version.
    Watching(Watch, ResourceVersion),
}

struct Watch {
    lines: Lines,
    opened: Instant,
    /// Whether it has told of any pod what was not known.
    has_told: bool,
}

impl Watch {
    fn new(lines: Lines) -> Self {
        Self { lines, opened: Instant::now(), has_told: false }
    }

    /// Whether its end is of its own limit, and not of something that will end the next one as soon.
    fn may_end(&self) -> bool {
        self.has_told || self.has_lasted()
    }

    fn has_lasted(&self) -> bool {
        self.opened.elapsed() > SHORTEST
    }
}

impl Reader {
    /// Begins with a list; the watch after it begins at the first of `since` that the API server remembers.
    pub(super) fn new(api: Api, scope: Scope, since: &[ResourceVersion]) -> Self {
        let since = since.iter().copied().collect();
        let (listed, told) = (ResourceVersion::default(), VecDeque::new());
        let state = State::Listing;
        Self { api, scope, state, streams: true, failures: 0, refusals: 0, gone: 0, since, listed, told }
    }

    /// What happens next. Failures are logged and mended by trying again, after a pause.
    pub(super) async fn next(&mut self) -> PodEvent {
        loop {
            if let Some(what) = self.told.pop_front() {
                return PodEvent { scope: self.scope, what };
            }
            if let Err(error) = self.step().await {
                self.recover(error).await;
            }
        }
    }

    async fn step(&mut self) -> Result<(), ReadError> {
        match &mut self.state {
            State::Listing if self.streams => {
                let lines = self.api.watch(From::List, watch_limit()).await?;
                self.state = State::Streaming(lines);
                self.told.push_back(What::ListBegan);
            }
            State::Listing => {
                self.told.push_back(What::ListBegan);
                self.page(None, None, Instant::now()).await?;
            }
            State::Paging { next, before, since } => {
                let (next, before, since) = (std::mem::take(next), before.take(), *since);
                self.page(Some(next), before, since).await?;
            }
            State::Streaming(lines) => {
                let line = lines.next(LIST_SILENCE).await?;
                self.listed(line)?;
            }
            State::Resuming(version) => {
                let version = *version;
                let lines = self.api.watch(From::Version(version), watch_limit()).await?;
                self.state = State::Watching(Watch::new(lines), version);
                self.told.push_back(What::Watching(version));
            }
            State::Watching(watch, _) => {
                let line = watch.lines.next(SILENCE).await?;
                self.changed(line)?;
            }
        }
        Ok(())
    }

    /// Reads a page of a list that began at `since`. No page begins with the pod that the page before began with.
    async fn page(&mut self, next: Option<String>, before: Option<PodId>, since: Instant) -> Result<(), ReadError> {
        let page = self.api.page(next.as_deref()).await?;
        let first = page.pods.iter().flatten().next().map(|pod| pod.id.clone());
        let is_same = first.is_some() && first == before;
        self.told.extend(page.pods.into_iter().map(|pod| pod.map_or_else(What::Unreadable, What::Listed)));
        self.state = match page.next {
            Some(new) if is_same || next.as_ref() == Some(&new) => return Err(ReadError::Endless(LIST_LIMIT)),
            Some(_) if since.elapsed() > LIST_LIMIT => return Err(ReadError::Endless(LIST_LIMIT)),
            Some(next) => State::Paging { next, before: first, since },
            None => State::Resuming(self.list_ended(page.version)),
        };
        Ok(())
    }

    /// Takes in a line of a streaming list.
    fn listed(&mut self, line: Line) -> Result<(), ReadError> {
        match self.event(line)? {
            Some(Event::Present(pod)) => self.told.push_back(What::Listed(pod)),
            Some(Event::Gone(pod)) => self.told.push_back(What::Deleted(pod)),
            Some(Event::Bookmark { version, list_ended: true }) => {
                let from = self.list_ended(version);
                let State::Streaming(lines) = std::mem::replace(&mut self.state, State::Resuming(from)) else {
                    return Ok(());
                };
                if from == version {
                    self.told.push_back(What::Watching(version));
                    self.state = State::Watching(Watch::new(lines), version);
                }
            }
            Some(Event::Bookmark { .. }) | None => {}
            Some(Event::Error(error)) => return Err(error),
        }
        Ok(())
    }

    /// Tells that the list is complete, and gives where the watch begins.
    fn list_ended(&mut self, version: ResourceVersion) -> ResourceVersion {
        self.listed = version;
        self.told.push_back(What::ListEnded(version));
        self.next_since()
    }

    /// Where a watch is to begin when it can begin at none of the versions before.
    fn next_since(&mut self) -> ResourceVersion {
        let listed = self.listed;
        self.since.pop_front().filter(|since| *since < listed).unwrap_or(listed)
    }

    /// Takes in a line of a watch.
    fn changed(&mut self, line: Line) -> Result<(), ReadError> {
        if matches!((&line, &self.state), (Line::End, State::Watching(watch, _)) if watch.may_end()) {
            self.resume();
            return Ok(());
        }
        let (version, what) = match self.event(line)? {
            Some(Event::Present(pod)) => (pod.version, What::Changed(pod)),
            Some(Event::Gone(pod)) => (pod.version, What::Deleted(pod)),
            Some(Event::Bookmark { version, .. }) => (version, What::Bookmark(version)),
            Some(Event::Error(error)) => return Err(error),
            None => return Ok(()),
        };
        if let State::Watching(watch, seen) = &mut self.state {
            watch.has_told |= version > *seen && !matches!(what, What::Bookmark(_));
            if watch.may_end() {
                self.failures = 0;
            }
            *seen = version.max(*seen);
        }
        self.told.push_back(what);
        Ok(())
    }

    /// The event of a line; what cannot be read is told and passed over.
    fn event(&mut self, line: Line) -> Result<Option<Event>, ReadError> {
        let event = match line {
            Line::Whole(line) => Event::read(&line),
            Line::TooLong => Err(Unreadable::too_long(LONGEST)),
            Line::End => return Err(ReadError::EndedEarly),
        };
        Ok(event.map_err(|unreadable| self.told.push_back(What::Unreadable(unreadable))).ok())
    }

    /// Goes back to where reading can begin again: a list that broke off begins anew.
    fn resume(&mut self) {
        if matches!(&self.state, State::Watching(watch, _) if watch.has_lasted()) {
            self.gone = 0;
        }
        self.state = match self.state {
            State::Watching(_, version) | State::Resuming(version) => State::Resuming(version),
            State::Listing | State::Paging { .. } | State::Streaming(_) => State::Listing,
        };
    }

    /// Decides what is tried next, and waits until it may be.
    async fn recover(&mut self, error: ReadError) {
        let streaming =
            matches!(self.state, State::Streaming(_)) || matches!(self.state, State::Listing if self.streams);
        self.resume();
        if streaming && (error.is_not_understood() || matches!(error, ReadError::Silent(_))) {
            tracing::info!(error = %Chain(&error), "the API server does not stream lists: reading pages");
            self.streams = false;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.refusals = if error.is_of_version() { self.refusals + 1 } else { 0 };
        let forgotten = error.is_gone() || self.refusals >= REFUSALS;
        if let State::Resuming(after) = self.state
            && forgotten
            && after < self.listed
        {
            // What is there is known from the list: only what came and went before it is lost.
            let until = self.next_since();
            self.told.push_back(What::Forgotten { after, until });
            self.state = State::Resuming(until);
            self.refusals = 0;
            return;
        }
        if matches!(self.state, State::Resuming(_)) && forgotten {
            tracing::info!(error = %Chain(&error), "the watch cannot go on where it was: listing all pods");
            self.state = State::Listing;
            self.refusals = 0;
            self.gone += u32::from(error.is_gone());
            if error.is_gone() && self.gone == 1 {
                return;
            }
        }
        let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_CAP);
        let wait = Backoff::API_SERVER.after(self.failures.max(self.gone), fastrand::f64()).max(asked);
        tracing::warn!(error = %Chain(&error), retry_seconds = wait.as_secs_f64(), "cannot read pods");
        sleep(wait).await;
    }
}

fn watch_limit() -> Duration {
    WATCH.mul_f64(1.0 + fastrand::f64())
}
