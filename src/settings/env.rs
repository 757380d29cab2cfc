//! Which variables of the process are sent in `env`.

use super::Variables;

/// Words that names of credentials end in. [`is_credential`] says how they are compared.
const CREDENTIALS: [&str; 12] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "PRIVATE",
    "KEY",
    "AUTH",
    "DSN",
    "COOKIE",
    "SIGNATURE",
];

/// Variables of k8vent that hold what one webhook must not learn of another.
const OWN: [&str; 2] = ["K8VENT_HEADER", "K8VENT_WEBHOOKS"];

/// The rules of `--env`, in their order.
#[derive(Debug, Default)]
pub struct EnvRules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    pattern: String,
    send: bool,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is wrong: expected NAME or !NAME, with * for any characters")]
pub struct RuleError(String);

impl EnvRules {
    /// Reads rules like `NAME`, `!NAME`, `PREFIX_*`.
    pub fn parse<'a>(rules: impl Iterator<Item = &'a str>) -> Result<Self, RuleError> {
        let rule = |text: &'a str| {
            let (pattern, send) = text.strip_prefix('!').map_or((text, true), |pattern| (pattern, false));
            let valid = !pattern.is_empty() && !pattern.contains(|c: char| c.is_whitespace() || c == '=' || c == '!');
            if valid { Ok(Rule { pattern: pattern.to_owned(), send }) } else { Err(RuleError(text.to_owned())) }
        };
        rules.map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// What is sent of `variables`.
    #[must_use]
    pub fn apply(&self, variables: &Variables) -> Variables {
        let sent = variables.iter().filter(|(name, value)| self.sends(name, value));
        sent.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn sends(&self, name: &str, value: &str) -> bool {
        let rule = self.0.iter().rev().find(|rule| fits(&rule.pattern, name));
        rule.map_or_else(|| !is_credential(name) && !holds_password(value), |rule| rule.send)
    }
}

/// Whether a name looks like a credential's: one of its words, separated by anything but letters and digits, ends
/// like one of the list, in any case and in the plural too.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let looks = |word: &str| CREDENTIALS.iter().any(|ending| word.strip_suffix('S').unwrap_or(word).ends_with(ending));
    OWN.contains(&name.as_str()) || name.split(|c: char| !c.is_ascii_alphanumeric()).any(looks)
}

/// Whether a value is a URL with a password in it.
fn holds_password(value: &str) -> bool {
    let authority = value.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
    authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user_info, _)| user_info.contains(':'))
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| (0..=name.len()).filter(|&i| name.is_char_boundary(i)).any(|i| fits(rest, &name[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(rules: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        EnvRules::parse(rules.iter().copied()).unwrap().apply(&variables).into_keys().collect()
    }

    #[test]
    fn variables_that_look_like_credentials_are_withheld() {
        let withheld = "GITHUB_TOKEN AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID DB_PASSWORD PGPASSWORD API_KEY APIKEY \
            SSH_PRIVATE_KEY BASIC_AUTH GOOGLE_APPLICATION_CREDENTIALS SENTRY_DSN token Secrets SESSION_COOKIE \
            K8VENT_WEBHOOK_SECRET K8VENT_WEBHOOKS K8VENT_HEADER K8VENT_SECRET_FILE my.api.keys";
        for name in withheld.split_whitespace() {
            assert!(sent(&[], &[(name, "x")]).is_empty(), "{name}");
        }
        let told = "PATH HOME ATOMIST_ENVIRONMENT HOSTNAME KUBERNETES_SERVICE_HOST AUTHOR KEYBOARD K8VENT_TIMEOUT SSL_CERT_FILE";
        for name in told.split_whitespace() {
            assert_eq!(sent(&[], &[(name, "x")]), [name]);
        }
    }

    #[test]
    fn urls_with_passwords_are_withheld() {
        assert!(sent(&[], &[("DATABASE_URL", "postgres://user:pass@db:5432/x")]).is_empty());
        assert_eq!(sent(&[], &[("DATABASE_URL", "postgres://db:5432/a@b:c")]), ["DATABASE_URL"]);
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let variables = [("A_TOKEN", "x"), ("B_TOKEN", "x"), ("HOME", "x")];
        assert_eq!(sent(&["A_TOKEN"], &variables), ["A_TOKEN", "HOME"]);
        assert_eq!(sent(&["*", "!B_*"], &variables), ["A_TOKEN", "HOME"]);
        assert_eq!(sent(&["!*", "HOME"], &variables), ["HOME"]);
        assert_eq!(sent(&["!*", "*_TOK*N"], &variables), ["A_TOKEN", "B_TOKEN"]);
    }

    #[test]
    fn a_malformed_rule_is_refused() {
        for rule in ["", "!", "A B", "A=B", "!!A"] {
            assert!(EnvRules::parse([rule].into_iter()).is_err(), "{rule:?}");
        }
    }
}
