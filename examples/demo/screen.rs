//! What the person who watches reads.

use std::{
    env,
    error::Error as StdError,
    fmt::{Display, Write as _},
    io::{self, IsTerminal, Write as _},
    time::Instant,
};

use crate::arrival::Arrival;

/// The terminal, or the file, that stdout is.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    colour: bool,
    began: Instant,
}

/// The colours used here, as terminals call them.
#[derive(Clone, Copy)]
enum Paint {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

impl Screen {
    /// Colour is for terminals, and for those who have not said that they want none (<https://no-color.org>).
    pub(crate) fn new() -> Self {
        let says = |name| env::var_os(name).filter(|value| !value.is_empty());
        let plain = says("NO_COLOR").is_some() || says("TERM").is_some_and(|term| term == "dumb");
        Self { colour: io::stdout().is_terminal() && !plain, began: Instant::now() }
    }

    /// A line, or several.
    #[expect(clippy::unused_self, reason = "whoever says something has a screen")]
    pub(crate) fn say(self, text: impl Display) {
        // Nobody to tell is no reason to stop in the middle, with a panic.
        let _ = writeln!(io::stdout(), "{text}");
    }

    /// The title of a part, and what to notice in it.
    pub(crate) fn part(self, title: &str, text: &str) {
        self.say(format_args!("\n{}\n{text}", self.paint(Paint::Bold, title)));
    }

    /// What happens next.
    pub(crate) fn next(self, text: &str) {
        self.say(self.paint(Paint::Cyan, &format!("* {text}")));
    }

    /// The names of the columns of [`arrived`](Self::arrived).
    pub(crate) fn header(self) {
        let names = columns(["TIME", "WEBHOOK", "EVENT", "POD", "PHASE  ", "READY", "WHY", "SIZE", "ID"]);
        self.say(self.paint(Paint::Dim, &names));
    }

    /// A line of the table of what arrives.
    pub(crate) fn arrived(self, arrival: &Arrival) {
        let time = format!("{:.2}s", self.began.elapsed().as_secs_f64());
        let phase = match (arrival.phase.as_str(), arrival.is_ready()) {
            ("Running" | "Succeeded", true) => Paint::Green,
            ("Deleted", _) => Paint::Dim,
            ("Failed", _) | ("Running", false) => Paint::Red,
            _ => Paint::Yellow,
        };
        self.say(columns([
            &time,
            &arrival.webhook,
            &arrival.event,
            &arrival.pod,
            // Padded here, because the codes for colour have a length too.
            &self.paint(phase, &format!("{:7}", arrival.phase)),
            &arrival.ready,
            &arrival.why,
            &arrival.size(),
            &arrival.short_id(),
        ]));
    }

    /// Something that was checked, and whether it holds.
    pub(crate) fn checked(self, holds: bool, text: &str) {
        let verdict = if holds { self.paint(Paint::Green, "  ok") } else { self.paint(Paint::Red, "  NO") };
        self.say(format_args!("{verdict}  {text}"));
    }

    /// Why the demo could not be shown to its end, on stderr.
    pub(crate) fn failed(self, error: &(dyn StdError + 'static)) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        eprintln!("{} {text}", self.paint(Paint::Red, "demo:"));
    }

    fn paint(self, paint: Paint, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", paint as u8) } else { text.to_owned() }
    }
}

/// Wide enough for the pods of the scene; what is longer pushes the rest aside.
fn columns([time, webhook, event, pod, phase, ready, why, size, id]: [&str; 9]) -> String {
    format!("  {time:>6}  {webhook:9}  {event:7}  {pod:13}  {phase}  {ready:5}  {why:19}  {size:>6}  {id}")
}
