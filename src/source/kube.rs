//! Pods from a Kubernetes API server: the adapter of [`PodSource`].

use futures_util::{Stream, stream};
use hyper_util::client::proxy::matcher::Matcher;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{
    digest::Digest,
    pod::{Pod, PodId, ResourceVersion},
    settings::ClusterSettings,
    source::{
        GetError, PodEvent, PodSource, Scope,
        kube::{
            api::Api,
            error::{ConnectError, ReadError},
            reader::Reader,
        },
    },
};

mod api;
pub mod error;
mod event;
mod lines;
mod reader;

/// Reads pods by list and watch, as raw JSON.
///
/// It does not use kube-runtime's watcher, which can neither begin at a given resource version nor hand out the API
/// server's own bytes.
#[derive(Clone)]
pub struct KubeSource {
    client: Client,
    settings: ClusterSettings,
    cluster: Digest,
}

impl KubeSource {
    /// Prepares to read what `settings` select. No request is made yet.
    pub async fn new(settings: ClusterSettings) -> Result<Self, ConnectError> {
        let config = config(&settings).await?;
        // Each cluster has an authority of its own, unless its certificate is from a public one.
        let cluster = match &config.root_cert {
            Some(authorities) => Digest::of(&format!("{authorities:?}")),
            None => Digest::of(&config.cluster_url.to_string()),
        };
        let client = Client::try_from(config).map_err(ConnectError::Client)?;
        Ok(Self { client, settings, cluster })
    }

    /// How many scopes there are: one for each namespace asked for, or one for all.
    #[must_use]
    pub fn scopes(&self) -> usize {
        self.settings.namespaces.len().max(1)
    }

    /// What tells this selection of pods from others: namespaces and selectors.
    #[must_use]
    pub fn selection(&self) -> Digest {
        let ClusterSettings { namespaces, label_selector, field_selector, .. } = &self.settings;
        let mut namespaces = namespaces.clone();
        namespaces.sort_unstable();
        Digest::of(&format!("{namespaces:?} {label_selector:?} {field_selector:?}"))
    }

    /// The same selection of pods, and of which cluster.
    #[must_use]
    pub fn selection_of_cluster(&self) -> Digest {
        Digest::of(&format!("{} {}", self.cluster, self.selection()))
    }

    /// A client for other objects of the same cluster, with the same rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    fn api(&self, scope: usize) -> Api {
        let ClusterSettings { namespaces, label_selector, field_selector, .. } = &self.settings;
        Api::new(
            self.client.clone(),
            namespaces.get(scope).map(String::as_str),
            label_selector.as_deref(),
            field_selector.as_deref(),
        )
    }
}

impl PodSource for KubeSource {
    fn events(&self, since: Vec<ResourceVersion>) -> impl Stream<Item = PodEvent> + Send + 'static {
        let readers = (0..self.scopes()).map(|scope| Box::new(Reader::new(self.api(scope), Scope(scope), &since)));
        stream::select_all(readers.map(|reader| {
            Box::pin(stream::unfold(reader, async |mut reader| {
                let event = reader.next().await;
                Some((event, reader))
            }))
        }))
    }

    async fn get(&self, pod: &PodId) -> Result<Option<Pod>, GetError> {
        match self.api(0).get(pod).await {
            Ok(found) if found.id == *pod => Ok(Some(found)),
            Ok(_) | Err(ReadError::Refused { code: 404, .. }) => Ok(None),
            Err(error) => Err(GetError(error.into())),
        }
    }
}

async fn config(settings: &ClusterSettings) -> Result<Config, ConnectError> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match (&settings.kubeconfig, &settings.context) {
        (Some(path), _) => {
            let told = |error| ConnectError::Kubeconfig { path: path.clone(), source: error };
            let kubeconfig = Kubeconfig::read_from(path).map_err(told)?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(told)?
        }
        (None, Some(_)) => Config::from_kubeconfig(&options).await.map_err(ConnectError::Context)?,
        (None, None) => Config::infer().await.map_err(ConnectError::Infer)?,
    };
    // Failures are ours to back off from; and what a proxy is for must not be guessed from its own address.
    config.default_retry = false;
    if config.proxy_url.is_some() && Matcher::from_env().intercept(&config.cluster_url).is_none() {
        config.proxy_url = None;
    }
    Ok(config)
}
