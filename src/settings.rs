//! What the command line and the environment ask for, checked.
//!
//! Each option is a flag and a variable, and the flag wins. A wrong value is refused with its name, the value, and
//! what would be right; values that may hold secrets are not repeated.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};
use jiff::SignedDuration;
use tracing::Level;

use crate::{
    cli::Options,
    dispatch::Limits,
    endpoint::{Endpoint, EndpointError},
    settings::env::{EnvRules, RuleError},
    sign::{Secret, SecretError},
};

pub mod env;

/// The variables of the process.
pub type Variables = BTreeMap<String, String>;

/// All that k8vent is told when it starts.
#[derive(Debug)]
pub struct Settings {
    /// Global webhooks.
    pub urls: Vec<Endpoint>,
    /// What is read of the cluster.
    pub cluster: ClusterSettings,
    /// The `env` of bodies.
    pub env: Variables,
    /// Secrets to sign with.
    pub secrets: Vec<Secret>,
    /// `ce-source`.
    pub source: HeaderValue,
    /// Headers for global webhooks.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What the queues keep to.
    pub limits: Limits,
    /// Limit over one attempt.
    pub timeout: Duration,
    /// Limit over the drain.
    pub drain_timeout: Duration,
    /// The Lease that elects the replica that sends.
    pub lease: Option<LeaseSettings>,
    /// The name of this replica in the Lease; without, a new one.
    pub identity: Option<String>,
    /// The folder that keeps what is known and what waits.
    pub state_dir: Option<PathBuf>,
    /// Where to serve probes and metrics.
    pub listen: Option<SocketAddr>,
    /// How to log.
    pub log: LogSettings,
    /// Print instead of posting.
    pub dry_run: bool,
}

/// Which cluster, and which pods of it.
#[derive(Debug, Clone, Default)]
pub struct ClusterSettings {
    /// The kubeconfig; without, the usual places.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; without, its current one.
    pub context: Option<String>,
    /// The namespaces; none means all.
    pub namespaces: Vec<String>,
    /// The label selector, as the API takes it.
    pub label_selector: Option<String>,
    /// The field selector, as the API takes it.
    pub field_selector: Option<String>,
}

/// Which Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Its namespace; without, that of the service account or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The least level that is logged.
    pub level: Level,
    /// JSON, else text.
    pub json: bool,
}

/// Something was asked wrongly.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is nowhere to send to.
    #[error(
        "no webhook URLs provided: give --url or K8VENT_WEBHOOKS, or --pod-webhooks-only if the annotation \
         atomist.com/k8vent of pods is to name them all"
    )]
    NoUrls,
    /// There is nowhere to send a link to.
    #[error("link-image: no webhook URL provided: give --url")]
    NoLinkUrl,
    /// A value is not of its form.
    #[error("{option}: {value:?} is wrong: expected {expected}")]
    Value {
        /// The option or variable.
        option: Name,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A webhook URL is wrong. It is not repeated, because it may hold secrets; `number` is its place in the list.
    #[error("{option}: URL number {number} is wrong")]
    Url {
        /// The option or variable.
        option: Name,
        /// Its place in the list, from 1.
        number: usize,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// A header is wrong. It is not repeated.
    #[error("{option}: header number {number} is wrong: {why}")]
    Header {
        /// The option or variable.
        option: Name,
        /// Its place in the list, from 1.
        number: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A secret is wrong. It is not repeated.
    #[error("{0}: a secret is wrong")]
    Secret(String, #[source] SecretError),
    /// There is no secret where one is to be.
    #[error("{0}: no secret in it: write one on each line; `openssl rand -base64 32` makes one")]
    NoSecret(String),
    /// A file cannot be read.
    #[error("{0}: cannot be read")]
    SecretFile(String, #[source] std::io::Error),
    /// A rule of `--env` is wrong.
    #[error("{0}")]
    Env(Name, #[source] RuleError),
}

/// How an option was given: as a flag, or as a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `--flag`, by its name without dashes.
    Flag(&'static str),
    /// `VARIABLE`.
    Variable(&'static str),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Variable(variable) => f.write_str(variable),
        }
    }
}

impl Settings {
    /// Checks what was given.
    pub fn new(options: Options, variables: &Variables) -> Result<Self, SettingsError> {
        let given = Given(variables);
        let pod_webhooks_only = given.switch(options.pod_webhooks_only, "K8VENT_POD_WEBHOOKS_ONLY")?;
        let urls = given.list(options.url, "url", "K8VENT_WEBHOOKS").map(|list| endpoints(&list)).transpose()?;
        let urls = urls.unwrap_or_default();
        if urls.is_empty() && !pod_webhooks_only {
            return Err(SettingsError::NoUrls);
        }
        let rules = given.list(options.env, "env", "K8VENT_ENV").map(|list| {
            EnvRules::parse(list.values.iter().map(String::as_str))
                .map_err(|error| SettingsError::Env(list.name, error))
        });
        Ok(Self {
            urls,
            cluster: ClusterSettings {
                kubeconfig: given.text(options.kubeconfig, "kubeconfig", "K8VENT_KUBECONFIG").map(|(_, v)| v.into()),
                context: given.text(options.context, "context", "K8VENT_CONTEXT").map(|(_, v)| v),
                namespaces: given.list(options.namespace, "namespace", "K8VENT_NAMESPACE").map_or(Ok(vec![]), names)?,
                label_selector: given
                    .text(options.label_selector, "label-selector", "K8VENT_LABEL_SELECTOR")
                    .map(|(_, v)| v),
                field_selector: given
                    .text(options.field_selector, "field-selector", "K8VENT_FIELD_SELECTOR")
                    .map(|(_, v)| v),
            },
            env: rules.transpose()?.unwrap_or_default().apply(variables),
            secrets: secrets(&given, options.secret_file)?,
            source: given.parsed(options.cluster, "cluster", "K8VENT_CLUSTER", "kubernetes", SOURCE, source)?,
            headers: given
                .lines(options.header, "header", "K8VENT_HEADER")
                .map_or(Ok(vec![]), |list| headers(&list))?,
            limits: Limits {
                concurrency: given.parsed(
                    options.concurrency,
                    "concurrency",
                    "K8VENT_CONCURRENCY",
                    "16",
                    "a number from 1 to 1000",
                    |text| text.parse().ok().filter(|n| (1..=1000).contains(n)),
                )?,
                queue_bytes: given.parsed(
                    options.queue_bytes,
                    "queue-bytes",
                    "K8VENT_QUEUE_BYTES",
                    "64Mi",
                    "a size like 512Ki, 64Mi or 1Gi",
                    size,
                )?,
                give_up_after: given.parsed(
                    options.give_up_after,
                    "give-up-after",
                    "K8VENT_GIVE_UP_AFTER",
                    "24h",
                    DURATION,
                    positive,
                )?,
            },
            timeout: given.parsed(options.timeout, "timeout", "K8VENT_TIMEOUT", "30s", DURATION, positive)?,
            drain_timeout: given.parsed(
                options.drain_timeout,
                "drain-timeout",
                "K8VENT_DRAIN_TIMEOUT",
                "20s",
                "a duration like 500ms, 30s or 0s",
                duration,
            )?,
            lease: given.optional(options.lease, "lease", "K8VENT_LEASE", LEASE, lease)?,
            identity: given.text(options.identity, "identity", "K8VENT_IDENTITY").map(|(_, v)| v),
            state_dir: given.optional(options.state_dir, "state-dir", "K8VENT_STATE_DIR", FOLDER, |text| {
                (!text.is_empty()).then(|| text.into())
            })?,
            listen: given.optional(options.listen, "listen", "K8VENT_LISTEN", ADDRESS, address)?,
            log: LogSettings {
                level: given.parsed(
                    options.log_level,
                    "log-level",
                    "K8VENT_LOG_LEVEL",
                    "info",
                    "error, warn, info, debug or trace",
                    |text| text.parse().ok().filter(|_| text.parse::<u8>().is_err()),
                )?,
                json: given.parsed(
                    options.log_format,
                    "log-format",
                    "K8VENT_LOG_FORMAT",
                    "json",
                    "json or text",
                    |text| match text {
                        "json" => Some(true),
                        "text" => Some(false),
                        _ => None,
                    },
                )?,
            },
            dry_run: given.switch(options.dry_run, "K8VENT_DRY_RUN")?,
        })
    }
}

const DURATION: &str = "a duration like 500ms, 30s or 1h30m, and not 0";
const ADDRESS: &str = "an address and port like 0.0.0.0:8080, [::]:8080 or :8080";
const LEASE: &str = "NAME or NAMESPACE/NAME, of small letters, digits, hyphens and dots";
const FOLDER: &str = "the path of a folder";
const SOURCE: &str = "a name or URI reference without blanks";

/// What headers of `--header` may not be: they are of the connection, or have a meaning that receivers rely on.
const RESERVED: [&str; 8] =
    ["connection", "content-length", "content-type", "expect", "host", "te", "transfer-encoding", "upgrade"];

/// The variables, which stand for flags that were not given. An empty variable counts as not given.
struct Given<'a>(&'a Variables);

struct List {
    name: Name,
    values: Vec<String>,
}

impl Given<'_> {
    fn variable(&self, variable: &'static str) -> Option<(Name, String)> {
        let value = self.0.get(variable)?;
        (!value.trim().is_empty()).then(|| (Name::Variable(variable), value.clone()))
    }

    fn text(&self, value: Option<String>, flag: &'static str, variable: &'static str) -> Option<(Name, String)> {
        value.map(|value| (Name::Flag(flag), value)).or_else(|| self.variable(variable))
    }

    /// Values separated by commas.
    fn list(&self, values: Vec<String>, flag: &'static str, variable: &'static str) -> Option<List> {
        self.split(values, flag, variable, ',')
    }

    fn lines(&self, values: Vec<String>, flag: &'static str, variable: &'static str) -> Option<List> {
        self.split(values, flag, variable, '\n')
    }

    fn split(&self, values: Vec<String>, flag: &'static str, variable: &'static str, by: char) -> Option<List> {
        let (name, values) = if values.is_empty() {
            let (name, value) = self.variable(variable)?;
            (name, vec![value])
        } else {
            (Name::Flag(flag), values)
        };
        let values = values.iter().flat_map(|value| value.split(by)).map(|value| value.trim().to_owned());
        // A trailing comma is no value; a flag that is empty as a whole is one, and wrong.
        let (mut values, count) = values.fold((Vec::new(), 0), |(mut values, count), value| {
            if !value.is_empty() {
                values.push(value);
            }
            (values, count + 1)
        });
        if values.is_empty() && count > 0 {
            values.push(String::new());
        }
        Some(List { name, values })
    }

    fn switch(&self, flag: bool, variable: &'static str) -> Result<bool, SettingsError> {
        let Some((option, value)) = self.variable(variable).filter(|_| !flag) else { return Ok(flag) };
        match value.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(SettingsError::Value { option, value, expected: "true or false" }),
        }
    }

    fn optional<T>(
        &self,
        value: Option<String>,
        flag: &'static str,
        variable: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, SettingsError> {
        let Some((option, value)) = self.text(value, flag, variable) else { return Ok(None) };
        parse(&value).map(Some).ok_or(SettingsError::Value { option, value, expected })
    }

    fn parsed<T>(
        &self,
        value: Option<String>,
        flag: &'static str,
        variable: &'static str,
        default: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let (option, value) =
            self.text(value, flag, variable).unwrap_or_else(|| (Name::Flag(flag), default.to_owned()));
        parse(value.trim()).ok_or(SettingsError::Value { option, value, expected })
    }
}

fn endpoints(list: &List) -> Result<Vec<Endpoint>, SettingsError> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (url, number) in list.values.iter().zip(1..) {
        let endpoint = url.parse().map_err(|source| SettingsError::Url { option: list.name, number, source })?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

/// Namespaces are RFC 1123 labels.
fn names(list: List) -> Result<Vec<String>, SettingsError> {
    let is_label = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-')
    };
    let mut values = list.values;
    if let Some(wrong) = values.iter().position(|name| !is_label(name)) {
        return Err(SettingsError::Value {
            option: list.name,
            value: values.swap_remove(wrong),
            expected: "the name of a namespace: lower-case letters, digits and dashes",
        });
    }
    values.sort();
    values.dedup();
    Ok(values)
}

fn secrets(given: &Given<'_>, files: Vec<String>) -> Result<Vec<Secret>, SettingsError> {
    let mut secrets = Vec::new();
    if let Some(list) = given.list(files, "secret-file", "K8VENT_SECRET_FILE") {
        for file in list.values {
            let place = format!("{}: {file}", list.name);
            let text =
                std::fs::read_to_string(&file).map_err(|error| SettingsError::SecretFile(place.clone(), error))?;
            secrets.extend(parse_secrets(&text, &place)?);
        }
    }
    if let (true, Some((name, text))) = (secrets.is_empty(), given.variable("K8VENT_WEBHOOK_SECRET")) {
        secrets = parse_secrets(&text, &name.to_string())?;
    }
    Ok(secrets)
}

fn parse_secrets(text: &str, place: &str) -> Result<Vec<Secret>, SettingsError> {
    let secrets = text.split_whitespace().map(|text| text.parse().map_err(|e| SettingsError::Secret(place.into(), e)));
    let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
    if secrets.is_empty() { Err(SettingsError::NoSecret(place.into())) } else { Ok(secrets) }
}

fn headers(list: &List) -> Result<Vec<(HeaderName, HeaderValue)>, SettingsError> {
    let headers = list
        .values
        .iter()
        .zip(1..)
        .map(|(text, number)| header(text).map_err(|why| SettingsError::Header { option: list.name, number, why }));
    headers.collect()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let (name, value) = text.split_once(':').ok_or(r#"expected "Name: value""#)?;
    let name: HeaderName =
        name.trim().parse().map_err(|_| "its name has characters that names of headers cannot have")?;
    let is_ours = ["ce-", "webhook-"].iter().any(|prefix| name.as_str().starts_with(prefix));
    if is_ours || RESERVED.contains(&name.as_str()) {
        return Err("it is one that k8vent sets itself");
    }
    let mut value: HeaderValue =
        value.trim().parse().map_err(|_| "its value has characters that headers cannot have")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// `CloudEvents` 1.0 asks for a URI reference that is not empty.
fn source(text: &str) -> Option<HeaderValue> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&b));
    HeaderValue::from_str(text).ok().filter(|_| fits)
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<SignedDuration>().ok()?.try_into().ok()
}

/// A duration as options take it, if it is not 0.
pub(crate) fn positive(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| !duration.is_zero())
}

/// Bytes, or with a suffix as Kubernetes writes them.
fn size(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(factor)
}

fn lease(text: &str) -> Option<LeaseSettings> {
    let (namespace, name) = text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
    let is_name = |name: &str| {
        let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-.".contains(letter);
        !name.is_empty() && name.len() <= 253 && name.chars().all(fits)
    };
    let fits = is_name(name) && namespace.is_none_or(is_name);
    fits.then(|| LeaseSettings { namespace: namespace.map(str::to_owned), name: name.to_owned() })
}

fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    if text.starts_with(':') { format!("[::]{text}").parse().ok() } else { text.parse().ok() }
}

#[cfg(test)]
mod tests;
