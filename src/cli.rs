//! The command line, as text. What it means is in [`crate::settings`].
#![allow(clippy::doc_markdown, rustdoc::broken_intra_doc_links, reason = "the docs of options are their help text")]

use argh::{EarlyExit, FromArgs};

/// Send Kubernetes pods as JSON to webhooks.
///
/// Watches pods, and POSTs {"pod": …, "env": …} to webhooks whenever one is created, changed or deleted. Webhook URLs
/// come from the pod's annotation atomist.com/k8vent, else from --url, else from K8VENT_WEBHOOKS.
#[derive(Debug, Default, FromArgs)]
#[argh(
    note = "Each option may be given as --option VALUE or --option=VALUE, and as the variable named with it; the option wins. Durations are like 500ms, 30s or 1h30m, sizes like 512Ki or 64Mi.",
    example = "Send all pods to a webhook, using the current context of the kubeconfig:\n  $ {command_name} --url=https://example.com/hook",
    example = "Show what would be sent:\n  $ {command_name} --url=https://example.com/hook --dry-run",
    error_code(0, "ended as asked, and everything was delivered"),
    error_code(1, "failed while running, or something was left undelivered at the end"),
    error_code(2, "asked wrongly: the message says what would be right")
)]
pub struct Options {
    /// webhook URL for pods that name none themselves; may be repeated, or a list separated by commas
    /// [K8VENT_WEBHOOKS]
    #[argh(option, short = 'u', arg_name = "url")]
    pub url: Vec<String>,

    /// namespace to watch; may be repeated, or a list separated by commas [default: all] [K8VENT_NAMESPACE]
    #[argh(option, short = 'n', arg_name = "namespace")]
    pub namespace: Vec<String>,

    /// watch only pods with these labels, as in kubectl: app=web,tier!=test [K8VENT_LABEL_SELECTOR]
    #[argh(option, short = 'l', arg_name = "selector")]
    pub label_selector: Option<String>,

    /// watch only pods with these fields, as in kubectl: spec.nodeName=node1 [K8VENT_FIELD_SELECTOR]
    #[argh(option, arg_name = "selector")]
    pub field_selector: Option<String>,

    /// run without global webhook URLs: only pods that name their own are sent [K8VENT_POD_WEBHOOKS_ONLY=true]
    #[argh(switch)]
    pub pod_webhooks_only: bool,

    /// change which variables are sent in "env": NAME sends one that looks like a credential, !NAME withholds one, *
    /// stands for any characters, the last that fits decides; may be repeated, or a list separated by commas
    /// [K8VENT_ENV]
    #[argh(option, arg_name = "rule")]
    pub env: Vec<String>,

    /// file with secrets to sign requests with (Standard Webhooks), one on each line; may be repeated, or a list
    /// separated by commas [K8VENT_SECRET_FILE; the secrets themselves: K8VENT_WEBHOOK_SECRET]
    #[argh(option, arg_name = "file")]
    pub secret_file: Vec<String>,

    /// name of the cluster, sent as ce-source [default: kubernetes] [K8VENT_CLUSTER]
    #[argh(option, arg_name = "name")]
    pub cluster: Option<String>,

    /// header to send to global webhooks, as "Name: value"; may be repeated [K8VENT_HEADER, one on each line]
    #[argh(option, arg_name = "header")]
    pub header: Vec<String>,

    /// most attempts in flight to one webhook, 1 to 1000 [default: 16] [K8VENT_CONCURRENCY]
    #[argh(option, arg_name = "number")]
    pub concurrency: Option<String>,

    /// limit over one attempt, from connecting to the end of the answer [default: 30s] [K8VENT_TIMEOUT]
    #[argh(option, arg_name = "duration")]
    pub timeout: Option<String>,

    /// memory for bodies that wait; beyond it they are read again from the API server when their turn comes
    /// [default: 64Mi] [K8VENT_QUEUE_BYTES]
    #[argh(option, arg_name = "size")]
    pub queue_bytes: Option<String>,

    /// drop what a webhook has not accepted for so long [default: 24h] [K8VENT_GIVE_UP_AFTER]
    #[argh(option, arg_name = "duration")]
    pub give_up_after: Option<String>,

    /// how long to go on delivering after SIGTERM or SIGINT [default: 20s] [K8VENT_DRAIN_TIMEOUT]
    #[argh(option, arg_name = "duration")]
    pub drain_timeout: Option<String>,

    /// name of the Lease by which one replica of several is the one that sends, and where it leaves its position to the
    /// next; also NAMESPACE/NAME [default: none: every start sends every pod] [K8VENT_LEASE]
    #[argh(option, arg_name = "lease")]
    pub lease: Option<String>,

    /// name of this replica in the Lease, which no other replica may have; one that is started again under its name need
    /// not wait for its own Lease to expire [default: the host's name and a random number] [K8VENT_IDENTITY]
    #[argh(option, arg_name = "name")]
    pub identity: Option<String>,

    /// folder in which to keep, for the next start, which pods are known and what waits; made if it is not there, for one
    /// process only [default: none] [K8VENT_STATE_DIR]
    #[argh(option, arg_name = "folder")]
    pub state_dir: Option<String>,

    /// address to serve /livez, /readyz, /metrics and /status on, like 0.0.0.0:8080 [default: none] [K8VENT_LISTEN]
    #[argh(option, arg_name = "address")]
    pub listen: Option<String>,

    /// least level that is logged: error, warn, info, debug or trace [default: info] [K8VENT_LOG_LEVEL]
    #[argh(option, arg_name = "level")]
    pub log_level: Option<String>,

    /// form of the log on stderr: json or text [default: json] [K8VENT_LOG_FORMAT]
    #[argh(option, arg_name = "format")]
    pub log_format: Option<String>,

    /// kubeconfig file [default: KUBECONFIG, else ~/.kube/config, else the service account of the pod]
    /// [K8VENT_KUBECONFIG]
    #[argh(option, arg_name = "file")]
    pub kubeconfig: Option<String>,

    /// context of the kubeconfig [default: its current one] [K8VENT_CONTEXT]
    #[argh(option, arg_name = "name")]
    pub context: Option<String>,

    /// print each request as it would be sent, and send none [K8VENT_DRY_RUN=true]
    #[argh(switch)]
    pub dry_run: bool,

    /// print the version
    #[argh(switch)]
    pub version: bool,

    /// instead of watching pods, do this
    #[argh(subcommand)]
    pub command: Option<Command>,
}

/// Something to do instead of watching pods.
#[derive(Debug, FromArgs)]
#[argh(subcommand)]
pub enum Command {
    /// Tell which commit an image was built from.
    LinkImage(LinkImage),
}

/// Tell a webhook which commit an image was built from.
#[derive(Debug, Default, FromArgs)]
#[argh(
    subcommand,
    name = "link-image",
    example = "k8vent link-image --url https://webhook.example.com/link-image --owner me --repo app --sha $(git rev-parse HEAD) --image me/app:1.2.3"
)]
pub struct LinkImage {
    /// URL to POST the link to; may be repeated
    #[argh(option, short = 'u', arg_name = "url")]
    pub url: Vec<String>,

    /// owner of the repository, a user or an organization
    #[argh(option, arg_name = "owner")]
    pub owner: String,

    /// name of the repository
    #[argh(option, arg_name = "repo")]
    pub repo: String,

    /// full SHA of the commit
    #[argh(option, arg_name = "sha")]
    pub sha: String,

    /// full tag of the image: OWNER/IMAGE:VERSION, or REGISTRY/OWNER/IMAGE:VERSION
    #[argh(option, arg_name = "image")]
    pub image: String,

    /// limit over the attempt [default: 30s]
    #[argh(option, arg_name = "duration")]
    pub timeout: Option<String>,
}

/// Reads the arguments that follow the program's name.
pub fn parse(args: &[String]) -> Result<Options, EarlyExit> {
    let args = split_values(args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Options::from_args(&["k8vent"], &args)
}

/// Makes two arguments of `--option=VALUE`, the form that argh does not know.
fn split_values(args: &[String]) -> Vec<String> {
    let mut split = Vec::with_capacity(args.len() + 4);
    let mut args = args.iter();
    for arg in args.by_ref() {
        match arg.split_once('=') {
            Some((option, value)) if option.starts_with("--") => split.extend([option.to_owned(), value.to_owned()]),
            _ => split.push(arg.clone()),
        }
        if arg == "--" {
            break;
        }
    }
    split.extend(args.cloned());
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Options {
        let args: Vec<_> = args.iter().map(ToString::to_string).collect();
        parse(&args).unwrap()
    }

    #[test]
    fn both_forms_work_for_every_option() {
        const OPTIONS: [&str; 22] = [
            "url",
            "namespace",
            "label-selector",
            "field-selector",
            "env",
            "secret-file",
            "cluster",
            "header",
            "concurrency",
            "timeout",
            "queue-bytes",
            "give-up-after",
            "drain-timeout",
            "lease",
            "identity",
            "state-dir",
            "listen",
            "log-level",
            "log-format",
            "kubeconfig",
            "context",
            "url",
        ];
        for option in OPTIONS {
            let value = "a=b,c";
            let (equals, blank) = (format!("--{option}={value}"), format!("--{option}"));
            let (equals, blank) = (parsed(&[&equals]), parsed(&[&blank, value]));
            assert_eq!(format!("{equals:?}"), format!("{blank:?}"));
            assert!(format!("{equals:?}").contains(value), "{option}");
        }
    }

    #[test]
    fn short_forms_and_repetition_work() {
        let options = parsed(&["-u", "http://a", "--url=http://b", "-n", "x", "-n", "y", "-l", "app=web"]);
        assert_eq!(options.url, ["http://a", "http://b"]);
        assert_eq!(options.namespace, ["x", "y"]);
        assert_eq!(options.label_selector.as_deref(), Some("app=web"));
    }

    #[test]
    fn the_subcommand_takes_both_forms_too() {
        let args = ["link-image", "--url=http://a", "--owner", "o", "--repo=r", "--sha=s", "--image=i:1"];
        assert!(matches!(parsed(&args).command, Some(Command::LinkImage(LinkImage { image, .. })) if image == "i:1"));
    }
}
