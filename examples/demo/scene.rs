//! What happens, and what is said of it.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    Error,
    arrival::Arrival,
    child::K8vent,
    cluster::{Change, Cluster},
    hook::Hook,
    ledger::{Ledger, State},
    pods::Pod,
    screen::Screen,
};

/// To read what a part is about.
const TO_READ: Duration = Duration::from_secs(1);

/// Between two changes, to see one after the other.
const TO_SEE: Duration = Duration::from_millis(350);

/// Everything that takes part, and what it is to come to.
pub(crate) struct Scene {
    screen: Screen,
    /// The webhook of every pod that names none itself.
    global: Hook,
    /// The webhook that one pod names.
    own: Hook,
    // Before the cluster: what watches it goes first.
    k8vent: K8vent,
    cluster: Cluster,
    ledger: Ledger,
}

impl Scene {
    /// Starts the webhooks and k8vent; these pods run already, and arrive.
    pub(crate) async fn set(screen: Screen, cluster: Cluster, running: &mut [Pod]) -> Result<Self, Error> {
        let (global, own) = (Hook::start(screen, "/all").await?, Hook::start(screen, "/payments").await?);
        screen.say(format_args!("webhooks    {} is told to k8vent by --url", global.url()));
        screen.say(format_args!("            {} is not: a pod will name it", own.url()));
        let mut ledger = Ledger::default();
        for pod in running {
            cluster.make(Change::Create, pod).await?;
            cluster.make(Change::Schedule, pod).await?;
            let version = cluster.make(Change::Report(Pod::runs), pod).await?;
            ledger.expected.push(State { webhook: global.path(), pod: pod.full_name(), version });
        }
        screen.part(
            "1. k8vent is started",
            "Two pods, catalog and search, have been running for a while. It lists them and sends each once.",
        );
        screen.header();
        let k8vent = K8vent::start(&cluster.kubeconfig()?, &global.url()).await?;
        for state in &ledger.expected {
            global.expect(state).await?;
        }
        screen.say(format_args!("\nThe first of them, as it came over the wire:\n{}", global.first()));
        screen.say(format_args!("k8vent is process {}; its metrics: {}", k8vent.process_id(), k8vent.metrics_url()));
        Ok(Self { screen, global, own, k8vent, cluster, ledger })
    }

    /// All parts, one after the other, with the pods that run already.
    pub(crate) async fn play(&mut self, [catalog, search]: &mut [Pod; 2]) -> Result<(), Error> {
        let checkout = &mut Pod::new("checkout");
        let payments = &mut Pod::new("payments").with_webhook(&self.own.url());
        self.a_pod_starts(checkout).await?;
        self.it_fails(checkout).await?;
        self.it_is_deleted(checkout).await?;
        self.another_names_its_own_webhook(payments).await?;
        self.the_receiver_goes_away().await?;
        self.pods_change_meanwhile(catalog, search, payments).await?;
        self.the_receiver_comes_back().await
    }

    async fn a_pod_starts(&mut self, checkout: &mut Pod) -> Result<(), Error> {
        self.part(
            "2. A pod is scheduled and runs",
            "Each change is a POST with the whole pod, as `kubectl get pod -o json` shows it.",
        )
        .await;
        self.arrives(checkout, Change::Create, "checkout is created").await?;
        self.arrives(checkout, Change::Schedule, "the scheduler gives it a node").await?;
        self.arrives(checkout, Change::Report(Pod::starts), "its containers are created").await?;
        self.arrives(checkout, Change::Report(Pod::runs), "they run, and are ready").await
    }

    async fn it_fails(&mut self, checkout: &mut Pod) -> Result<(), Error> {
        self.part(
            "3. It fails",
            "Notice that its phase remains Running, as Kubernetes has it: why it fails is in the container's status.",
        )
        .await;
        let killed = "a container has used more memory than it may, and is killed";
        self.arrives(checkout, Change::Report(Pod::crashes), killed).await?;
        let again = "it has failed once more, and the kubelet waits before the next try";
        self.arrives(checkout, Change::Report(Pod::backs_off), again).await
    }

    async fn it_is_deleted(&mut self, checkout: &mut Pod) -> Result<(), Error> {
        self.part(
            "4. It is deleted",
            "The last message carries the pod's last state with the phase Deleted. Its id ends in .deleted instead of a\n\
             version, and would be the same if it had to be sent again.",
        )
        .await;
        self.arrives(checkout, Change::MarkDeleted, "kubectl delete pod checkout").await?;
        self.arrives(checkout, Change::Remove, "its containers have ended, and it is gone").await
    }

    async fn another_names_its_own_webhook(&mut self, payments: &mut Pod) -> Result<(), Error> {
        self.part(
            "5. Another pod names its own webhook",
            "The annotation atomist.com/k8vent of payments says where it goes: to /payments, and not to /all.",
        )
        .await;
        self.arrives(payments, Change::Create, "payments is created").await?;
        self.arrives(payments, Change::Schedule, "it gets a node").await?;
        self.arrives(payments, Change::Report(Pod::runs), "it runs").await
    }

    async fn the_receiver_goes_away(&mut self) -> Result<(), Error> {
        self.part(
            "6. The receiver of /all is away for a few seconds",
            "It refuses connections while three of its pods change. Of each pod only the newest state waits, the older\n\
             ones are replaced. Notice that /payments, which is another server, is served as before.",
        )
        .await;
        // What it has just received is accepted only once k8vent has read the answer.
        self.k8vent.counted(|counts| counts.held == 0).await?;
        self.global.go_away().await;
        Ok(())
    }

    async fn pods_change_meanwhile(
        &mut self,
        catalog: &mut Pod,
        search: &mut Pod,
        payments: &mut Pod,
    ) -> Result<(), Error> {
        let cart = &mut Pod::new("cart");
        self.is_replaced(catalog, Change::Report(Pod::crashes), "a container of catalog is killed").await?;
        self.is_replaced(cart, Change::Create, "a new pod, cart, is created").await?;
        self.is_replaced(search, Change::MarkDeleted, "kubectl delete pod search").await?;
        self.arrives(payments, Change::Report(Pod::crashes), "a container of payments is killed").await?;
        self.is_replaced(catalog, Change::Report(Pod::backs_off), "catalog fails once more").await?;
        self.is_replaced(cart, Change::Schedule, "cart gets a node").await?;
        self.waits(search, Change::Remove, "search is gone").await?;
        self.waits(catalog, Change::Report(Pod::recovers), "catalog runs again").await?;
        self.waits(cart, Change::Report(Pod::runs), "cart runs").await?;
        // Pods are read in the order of their changes: when this one has arrived, all those before have been read.
        self.arrives(payments, Change::Report(Pod::recovers), "payments runs again").await
    }

    async fn the_receiver_comes_back(&mut self) -> Result<(), Error> {
        // Three pods have changed meanwhile.
        let counts = self.k8vent.counted(|counts| counts.held == 3).await?;
        self.screen.say(format_args!("  k8vent logs    {}", self.k8vent.logged("endpoint is down: probing it").await?));
        self.screen.say(format_args!(
            "  k8vent counts  {} waiting, {} replaced, {} attempts failed",
            counts.held, counts.replaced, counts.failed_attempts
        ));
        self.part(
            "7. It is back",
            "k8vent finds out with its next probe: it waits longer after each that fails. The newest states arrive, the\n\
             delete of search among them.",
        )
        .await;
        self.global.come_back().await?;
        for state in self.ledger.expected.iter().filter(|state| state.webhook == self.global.path()) {
            self.global.expect(state).await?;
        }
        self.screen.say(format_args!("  k8vent logs    {}", self.k8vent.logged("endpoint is back").await?));
        Ok(())
    }

    /// Says whether all was as it should be.
    pub(crate) async fn judge(&self) -> Result<bool, Error> {
        let counts = self.k8vent.counted(|counts| counts.held == 0).await?;
        let arrivals: Vec<Arrival> = [&self.global, &self.own].iter().flat_map(|hook| hook.arrivals()).collect();
        self.screen.part("What was shown", "Checked against what the API server was told:");
        let checks = self.ledger.checks(&arrivals, counts);
        for (holds, text) in &checks {
            self.screen.checked(*holds, text);
        }
        Ok(checks.iter().all(|(holds, _)| *holds))
    }

    /// How to go on from another terminal.
    pub(crate) fn invite(&self) -> Result<(), Error> {
        self.screen.part("All of it goes on until Ctrl-C", "From another terminal, look at it and change something:");
        for command in self.cluster.commands()? {
            self.screen.say(format_args!("  {command}"));
        }
        self.screen.say("The metrics of k8vent:");
        self.screen.say(format_args!("  curl -s {}\n", self.k8vent.metrics_url()));
        self.screen.header();
        Ok(())
    }

    /// Ends k8vent in order, and everything else after it.
    pub(crate) async fn end(self) -> Result<bool, Error> {
        let code = self.k8vent.stop().await?;
        let code_text = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        self.screen.checked(code == Some(0), &format!("asked to end (SIGTERM), k8vent ended with {code_text}"));
        Ok(code == Some(0))
    }

    async fn part(&self, title: &str, text: &str) {
        self.screen.part(title, text);
        sleep(TO_READ).await;
    }

    /// A change that arrives at once.
    async fn arrives(&mut self, pod: &mut Pod, change: Change, text: &str) -> Result<(), Error> {
        let state = self.make(pod, change, text).await?;
        self.hook_of(pod).expect(&state).await?;
        self.ledger.expected.push(state);
        sleep(TO_SEE).await;
        Ok(())
    }

    /// A change that arrives once the receiver is back.
    async fn waits(&mut self, pod: &mut Pod, change: Change, text: &str) -> Result<(), Error> {
        let state = self.make(pod, change, text).await?;
        self.ledger.expected.push(state);
        sleep(TO_SEE).await;
        Ok(())
    }

    /// A change that is outdated before the receiver is back.
    async fn is_replaced(&mut self, pod: &mut Pod, change: Change, text: &str) -> Result<(), Error> {
        let state = self.make(pod, change, text).await?;
        self.ledger.outdated.push(state);
        sleep(TO_SEE).await;
        Ok(())
    }

    async fn make(&self, pod: &mut Pod, change: Change, text: &str) -> Result<State, Error> {
        self.screen.next(text);
        let version = self.cluster.make(change, pod).await?;
        Ok(State { webhook: self.hook_of(pod).path(), pod: pod.full_name(), version })
    }

    fn hook_of(&self, pod: &Pod) -> &Hook {
        if pod.names_a_webhook() { &self.own } else { &self.global }
    }
}
