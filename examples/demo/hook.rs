//! A webhook that prints what arrives.

use k8vent_harness::{Answer, Receiver, receiver::Received};

use crate::{
    Error, LIMIT,
    arrival::{self, Arrival},
    ledger::State,
    screen::Screen,
};

/// A server of its own with one path.
pub(crate) struct Hook {
    receiver: Receiver,
    path: &'static str,
}

impl Hook {
    pub(crate) async fn start(screen: Screen, path: &'static str) -> Result<Self, Error> {
        let receiver = Receiver::http().await?;
        // Called before the request counts as received: what is printed is printed before the scene goes on.
        receiver.answer_with(move |request| {
            screen.arrived(&Arrival::from(request));
            Answer::ACCEPTED
        });
        Ok(Self { receiver, path })
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn url(&self) -> String {
        self.receiver.url(self.path)
    }

    /// The first request, in its own words.
    pub(crate) fn first(&self) -> String {
        self.receiver.requests().first().map(arrival::excerpt).unwrap_or_default()
    }

    /// Everything that has arrived so far, in order.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.receiver.requests().iter().map(Arrival::from).collect()
    }

    /// Waits until a state has arrived; fails when it does not.
    pub(crate) async fn expect(&self, state: &State) -> Result<(), Error> {
        let arrived = |requests: &[Received]| requests.iter().any(|request| state.is(&Arrival::from(request)));
        match self.receiver.wait_for(LIMIT, arrived).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{} in version {} has not arrived: {error}", state.pod, state.version).into()),
        }
    }

    /// Closes the port: connections are refused.
    pub(crate) async fn go_away(&self) {
        self.receiver.down().await;
    }

    /// Opens the same port again.
    pub(crate) async fn come_back(&self) -> Result<(), Error> {
        Ok(self.receiver.up().await?)
    }
}
