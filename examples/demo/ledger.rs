//! What has to arrive, what must not, and whether it was so.

use std::collections::HashMap;

use crate::{arrival::Arrival, child::Counts};

/// A state of a pod, and where it belongs.
pub(crate) struct State {
    /// The path of the webhook.
    pub(crate) webhook: &'static str,
    /// Namespace and name.
    pub(crate) pod: String,
    /// The resource version, or `deleted`.
    pub(crate) version: String,
}

/// The states that the scene has made.
#[derive(Default)]
pub(crate) struct Ledger {
    /// They have to have arrived in the end.
    pub(crate) expected: Vec<State>,
    /// A newer state of the same pod replaced them while they waited: they must not arrive.
    pub(crate) outdated: Vec<State>,
}

/// Something that was checked: whether it holds, and what it is.
pub(crate) type Check = (bool, String);

impl State {
    pub(crate) fn is(&self, arrival: &Arrival) -> bool {
        self.webhook == arrival.webhook && self.pod == arrival.pod && self.version == arrival.version()
    }
}

impl Ledger {
    /// Compares what was made with what has arrived and with what k8vent says itself.
    pub(crate) fn checks(&self, arrivals: &[Arrival], counts: Counts) -> Vec<Check> {
        let arrived = |states: &[State]| states.iter().filter(|state| arrivals.iter().any(|one| state.is(one))).count();
        let (expected, outdated) = (arrived(&self.expected), arrived(&self.outdated));
        let misled = arrivals.iter().filter(|arrival| !self.is_where_it_belongs(arrival)).count();
        let Counts { offered, accepted, replaced, lost, held, failed_attempts } = counts;
        // The API server marks a pod once more as it removes it.
        let more = match arrivals.len().saturating_sub(expected) {
            0 => String::new(),
            more => format!(" (and {more} between the two steps of a delete)"),
        };
        vec![
            (
                expected == self.expected.len(),
                format!(
                    "{expected} of {} states that had to arrive did, the deletes included{more}",
                    self.expected.len()
                ),
            ),
            (
                outdated == 0,
                format!(
                    "{} of the {} arrived that were replaced while they waited",
                    none(outdated),
                    self.outdated.len()
                ),
            ),
            (are_in_order(arrivals), "the states of each pod came in order, and none came twice".to_owned()),
            (misled == 0, format!("{} went to a webhook that was not its own", none(misled))),
            (
                offered == accepted + replaced && lost + held == 0 && accepted == arrivals.len() as u64,
                format!(
                    "k8vent counts the same: {offered} states read = {accepted} accepted + {replaced} replaced, {lost} lost, \
                     {held} waiting;\n      the webhooks counted {}; {failed_attempts} attempts failed while one was away",
                    arrivals.len()
                ),
            ),
        ]
    }

    fn is_where_it_belongs(&self, arrival: &Arrival) -> bool {
        let same_pod = |state: &&State| state.pod == arrival.pod;
        self.expected.iter().find(same_pod).is_some_and(|state| state.webhook == arrival.webhook)
    }
}

/// Versions are numbers that grow, and nothing comes after a delete.
fn are_in_order(arrivals: &[Arrival]) -> bool {
    let mut newest = HashMap::new();
    arrivals.iter().all(|arrival| {
        let version = arrival.version().parse::<u64>().unwrap_or(u64::MAX);
        newest.insert(&arrival.pod, version).is_none_or(|before| before < version)
    })
}

fn none(count: usize) -> String {
    if count == 0 { "none".to_owned() } else { count.to_string() }
}
