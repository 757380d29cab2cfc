use super::*;
use crate::cli;

fn settings(args: &[&str], variables: &[(&str, &str)]) -> Result<Settings, String> {
    let args: Vec<_> = args.iter().map(ToString::to_string).collect();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Settings::new(cli::parse(&args).unwrap(), &variables).map_err(|error| crate::chain::Chain(&error).to_string())
}

fn urls(args: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    settings(args, variables).unwrap().urls.iter().map(ToString::to_string).collect()
}

#[test]
fn urls_come_from_the_flag_or_else_from_the_variable_and_never_from_both() {
    let variable = [("K8VENT_WEBHOOKS", " http://v1/ , http://v2/,, ")];
    assert_eq!(urls(&[], &variable), ["http://v1/", "http://v2/"]);
    assert_eq!(urls(&["--url=http://f/"], &variable), ["http://f/"]);
    assert_eq!(urls(&["-u", "http://a/,http://b/", "--url", "http://a/"], &[]), ["http://a/", "http://b/"]);
}

#[test]
fn no_url_at_all_is_refused_unless_annotations_are_enough() {
    for variables in [vec![], vec![("K8VENT_WEBHOOKS", " ")], vec![("K8VENT_POD_WEBHOOKS_ONLY", "false")]] {
        assert!(settings(&[], &variables).unwrap_err().starts_with("no webhook URLs provided"));
    }
    assert!(settings(&["--pod-webhooks-only"], &[]).is_ok());
    assert!(settings(&[], &[("K8VENT_POD_WEBHOOKS_ONLY", "true")]).is_ok());
}

#[test]
fn every_option_has_its_default() {
    let given = settings(&["-u", "http://a/"], &[("HOME", "/root"), ("X_TOKEN", "x")]).unwrap();
    let limits = Limits { concurrency: 16, queue_bytes: 64 << 20, give_up_after: Duration::from_hours(24) };
    assert_eq!(given.limits, limits);
    assert_eq!((given.timeout, given.drain_timeout), (Duration::from_secs(30), Duration::from_secs(20)));
    assert_eq!(given.log, LogSettings { level: Level::INFO, json: true });
    assert_eq!(given.source, "kubernetes");
    assert!(given.listen.is_none() && given.secrets.is_empty() && given.headers.is_empty() && !given.dry_run);
    assert_eq!(given.env.into_keys().collect::<Vec<_>>(), ["HOME"]);
}

#[test]
fn every_option_is_a_variable_too_and_the_flag_wins() {
    for (flag, variable, low, high) in [
        ("namespace", "K8VENT_NAMESPACE", "variable", "flag"),
        ("label-selector", "K8VENT_LABEL_SELECTOR", "a=variable", "a=flag"),
        ("field-selector", "K8VENT_FIELD_SELECTOR", "a=variable", "a=flag"),
        ("env", "K8VENT_ENV", "VARIABLE_TOKEN", "FLAG_TOKEN"),
        ("cluster", "K8VENT_CLUSTER", "variable", "flag"),
        ("header", "K8VENT_HEADER", "variable: x", "flag: x"),
        ("concurrency", "K8VENT_CONCURRENCY", "77", "88"),
        ("timeout", "K8VENT_TIMEOUT", "77s", "88s"),
        ("queue-bytes", "K8VENT_QUEUE_BYTES", "77", "88"),
        ("give-up-after", "K8VENT_GIVE_UP_AFTER", "77s", "88s"),
        ("drain-timeout", "K8VENT_DRAIN_TIMEOUT", "77s", "88s"),
        ("listen", "K8VENT_LISTEN", "127.0.0.1:77", "127.0.0.1:88"),
        ("lease", "K8VENT_LEASE", "one", "other/two"),
        ("identity", "K8VENT_IDENTITY", "this", "that"),
        ("state-dir", "K8VENT_STATE_DIR", "/this", "/that"),
        ("log-level", "K8VENT_LOG_LEVEL", "error", "debug"),
        ("log-format", "K8VENT_LOG_FORMAT", "json", "text"),
        ("kubeconfig", "K8VENT_KUBECONFIG", "/variable", "/flag"),
        ("context", "K8VENT_CONTEXT", "variable", "flag"),
    ] {
        let told = |args: &[&str], variables: &[(&str, &str)]| {
            let tokens = [("FLAG_TOKEN", "x"), ("VARIABLE_TOKEN", "x"), ("K8VENT_WEBHOOKS", "http://a/")];
            let mut told = settings(args, &[variables, &tokens].concat()).unwrap();
            told.env.retain(|name, _| name.ends_with("_TOKEN"));
            format!("{told:?}")
        };
        let flag = |value: &str| format!("--{flag}={value}");
        let (by_flag, by_variable) = (told(&[&flag(low)], &[]), told(&[], &[(variable, low)]));
        assert_eq!(by_flag, by_variable);
        let (both, only) = (told(&[&flag(high)], &[(variable, low)]), told(&[&flag(high)], &[]));
        assert_eq!(both, only);
        assert_ne!(both, by_variable, "{variable}");
    }
}

#[test]
fn a_wrong_value_is_told_with_its_option_and_what_would_be_right() {
    for (arg, told) in [
        ("--concurrency=0", "--concurrency: \"0\" is wrong: expected a number from 1 to 1000"),
        ("--concurrency=many", "--concurrency: \"many\" is wrong"),
        ("--timeout=5", "--timeout: \"5\" is wrong: expected a duration like 500ms"),
        ("--timeout=0s", "--timeout: \"0s\" is wrong"),
        ("--timeout=-5s", "--timeout: \"-5s\" is wrong"),
        ("--queue-bytes=64MB", "--queue-bytes: \"64MB\" is wrong: expected a size like 512Ki, 64Mi"),
        ("--queue-bytes=99999999999Gi", "--queue-bytes: "),
        ("--lease=a/b/c", "--lease: \"a/b/c\" is wrong: expected NAME or NAMESPACE/NAME"),
        ("--lease=Big", "--lease: \"Big\" is wrong: expected NAME or NAMESPACE/NAME"),
        ("--state-dir=", "--state-dir: \"\" is wrong: expected the path of a folder"),
        ("--listen=8080", "--listen: \"8080\" is wrong: expected an address"),
        ("--log-level=loud", "--log-level: \"loud\" is wrong: expected error, warn, info, debug or trace"),
        ("--log-level=3", "--log-level: \"3\" is wrong"),
        ("--log-format=xml", "--log-format: \"xml\" is wrong: expected json or text"),
        ("--namespace=a,B", "--namespace: \"B\" is wrong: expected the name of a namespace"),
        ("--namespace=", "--namespace: \"\" is wrong"),
        ("--cluster=my cluster", "--cluster: \"my cluster\" is wrong"),
        ("--env=A B", "--env: \"A B\" is wrong: expected NAME or !NAME"),
        ("--secret-file=/nowhere/secret", "--secret-file: /nowhere/secret: cannot be read: No such file"),
        ("--header=X", "--header: header number 1 is wrong: expected \"Name: value\""),
        ("--header=X Y: z", "--header: header number 1 is wrong: its name"),
        ("--header=Content-Type: z", "--header: header number 1 is wrong: it is one that k8vent sets itself"),
        ("--header=ce-id: z", "--header: header number 1 is wrong: it is one that k8vent sets itself"),
        ("--url=http://a/,ftp://user:secret@b/", "--url: URL number 3 is wrong: neither http:// nor https://"),
    ] {
        let error = settings(&["--url=http://ok/", arg], &[]).unwrap_err();
        assert!(error.starts_with(told), "{error}");
        assert!(!error.contains("user:secret"), "{error}");
    }
    let error = settings(&[], &[("K8VENT_WEBHOOKS", "http://a/"), ("K8VENT_TIMEOUT", "x")]).unwrap_err();
    assert!(error.starts_with("K8VENT_TIMEOUT: \"x\" is wrong"), "{error}");
}

#[test]
fn sizes_and_durations_and_addresses_are_read_as_they_are_written_in_kubernetes() {
    for (text, bytes) in
        [("0", 0), ("1024", 1024), ("512Ki", 512 << 10), ("64Mi", 64 << 20), ("1Gi", 1 << 30), ("5M", 5_000_000)]
    {
        assert_eq!(size(text), Some(bytes), "{text}");
    }
    for (text, millis) in [("500ms", 500), ("30s", 30_000), ("1h30m", 5_400_000), ("2m", 120_000), ("0s", 0)] {
        assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for (text, told) in [(":80", "[::]:80"), ("0.0.0.0:8080", "0.0.0.0:8080"), ("[::1]:0", "[::1]:0")] {
        assert_eq!(address(text).unwrap().to_string(), told);
    }
}

#[test]
fn secrets_come_from_files_or_else_from_the_variable() {
    let secret = |byte: u8| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [byte; 32]);
    let dir = std::env::temp_dir().join(format!("k8vent-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        format!("--secret-file={}", dir.join(name).display())
    };
    let count = |args: &[&str], variables: &[(&str, &str)]| {
        settings(&[args, &["--url=http://a/"]].concat(), variables).map(|settings| settings.secrets.len())
    };
    let two = file("two", &format!("whsec_{}\n\n{}\n", secret(1), secret(2)));
    let one = file("one", &secret(3));
    let variable = secret(4);
    assert_eq!(count(&[&two, &one], &[("K8VENT_WEBHOOK_SECRET", &variable)]), Ok(3));
    assert_eq!(count(&[], &[("K8VENT_WEBHOOK_SECRET", &variable)]), Ok(1));
    assert!(count(&[&file("empty", "\n")], &[]).unwrap_err().contains("no secret in it"));
    let error = count(&[&file("wrong", "hunter2hunter2!")], &[]).unwrap_err();
    assert!(error.contains("base64") && !error.contains("hunter2"), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}
