//! An error with its causes, in one line.

use std::{error::Error, fmt};

/// Shows an error and its causes, separated by colons. A cause that the text before it tells already, as many
/// libraries do, is not told again.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Link(&'static str, #[source] Option<Box<Link>>);

    #[test]
    fn each_cause_is_told_once() {
        let error =
            Link("cannot start", Some(Box::new(Link("no file: os error 2", Some(Box::new(Link("os error 2", None)))))));
        assert_eq!(Chain(&error).to_string(), "cannot start: no file: os error 2");
    }
}
