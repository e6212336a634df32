//! Join tokens: what stands for a ServiceAccount token outside Kubernetes.
//!
//! A file with lines `TOKEN NAMESPACE SERVICEACCOUNT`; empty lines and lines that begin with `#` are skipped. It is read again
//! when it changes. Only digests of tokens are kept.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use weir_core::names::{Label, ObjectName};

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Namespace of the service account.
    pub namespace: Label,
    /// The service account.
    pub service_account: ObjectName,
}

/// Shorter tokens are guessed.
const MIN_TOKEN: usize = 8;
/// Longest token, in bytes.
const MAX_TOKEN: usize = 4096;
/// Largest token file, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// A line of the file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BadLine {
    /// Its number, from 1.
    line: usize,
    /// What is wrong; never the token itself.
    reason: String,
}

/// The tokens of a file.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    digest: Vec<u8>,
    table: Table,
}

/// Tokens by their digests.
#[derive(Debug, Default)]
struct Table(Vec<(Vec<u8>, Account)>);

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let tokens = Self { path: path.to_owned(), read: Mutex::new(Read { digest: Vec::new(), table: Table::default() }) };
        tokens.refresh()?;
        Ok(tokens)
    }

    /// Whose token it is. `None`: nobody's. A file that cannot be read right now leaves what was read before.
    pub fn account(&self, token: &str) -> Option<Account> {
        if let Err(error) = self.refresh() {
            tracing::error!(path = %self.path.display(), %error, "cannot read the token file; what it said before still counts");
        }
        self.read.lock().unwrap_or_else(PoisonError::into_inner).table.find(token)
    }

    /// The file is small and certificates are asked for seldom, so it is simply read again each time.
    fn refresh(&self) -> std::io::Result<()> {
        if std::fs::metadata(&self.path)?.len() > MAX_FILE {
            return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
        }
        let text = std::fs::read(&self.path)?;
        let digest = sha256(&text);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.digest == digest {
            return Ok(());
        }
        let (table, bad) = parse(&String::from_utf8_lossy(&text));
        for BadLine { line, reason } in &bad {
            tracing::warn!(path = %self.path.display(), line, reason, "a line of the token file cannot be used");
        }
        tracing::info!(path = %self.path.display(), tokens = table.0.len(), "read the token file");
        *read = Read { digest, table };
        Ok(())
    }
}

impl Table {
    /// Compares with every token in a time that tells nothing about any of them.
    fn find(&self, token: &str) -> Option<Account> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let wanted = sha256(token.as_bytes());
        let mut found = None;
        for (digest, account) in &self.0 {
            if verify_slices_are_equal(digest, &wanted).is_ok() {
                found = Some(account);
            }
        }
        found.cloned()
    }
}

fn parse(text: &str) -> (Table, Vec<BadLine>) {
    let mut table = Table::default();
    let mut bad = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok((digest, account)) => match table.0.iter().find(|(other, _)| *other == digest) {
                Some((_, other)) if *other != account => {
                    let reason = "the token is somebody else's as well, on a line before; that line counts".to_owned();
                    bad.push(BadLine { line: i + 1, reason });
                }
                Some(_) => {}
                None => table.0.push((digest, account)),
            },
            Err(reason) => bad.push(BadLine { line: i + 1, reason }),
        }
    }
    (table, bad)
}

fn parse_line(line: &str) -> Result<(Vec<u8>, Account), String> {
    let mut words = line.split_whitespace();
    let (Some(token), Some(namespace), Some(account), None) = (words.next(), words.next(), words.next(), words.next()) else {
        let words = line.split_whitespace().count();
        return Err(format!("expected three words, TOKEN NAMESPACE SERVICEACCOUNT, found {words}"));
    };
    if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) {
        return Err(format!("a token must have {MIN_TOKEN} to {MAX_TOKEN} characters"));
    }
    let namespace = namespace.parse().map_err(|error| format!("namespace: {error}"))?;
    let service_account = account.parse().map_err(|error| format!("service account: {error}"))?;
    Ok((sha256(token.as_bytes()), Account { namespace, service_account }))
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> Account {
        Account { namespace: namespace.parse().unwrap(), service_account: name.parse().unwrap() }
    }

    #[test]
    fn lines_are_read_and_bad_ones_are_reported_by_number() {
        let (table, bad) = parse(concat!(
            "# who may join\n",
            "\n",
            "secret-one shop reviews\n",
            "  secret-two\tdata   db \n",
            "secret-three shop\n",
            "short a b\n",
            "secret-four Shop x\n",
            "secret-one shop other\n",
        ));
        assert_eq!(table.find("secret-one"), Some(account("shop", "reviews")));
        assert_eq!(table.find("secret-two"), Some(account("data", "db")));
        assert_eq!(table.find("secret-three"), None);
        assert_eq!(table.find(""), None);
        assert_eq!(bad.iter().map(|it| it.line).collect::<Vec<_>>(), [5, 6, 7, 8]);
        assert!(bad.iter().all(|it| !it.reason.contains("secret")), "{bad:?}");
    }

    #[test]
    fn a_changed_file_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        std::fs::write(&path, "secret-one shop reviews\n").unwrap();
        let tokens = Tokens::open(&path).unwrap();
        assert!(tokens.account("secret-one").is_some());
        std::fs::write(&path, "secret-new shop reviews\n").unwrap();
        assert_eq!(tokens.account("secret-one"), None);
        assert!(tokens.account("secret-new").is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(tokens.account("secret-new").is_some(), "a file that is gone takes nothing back");
    }
}
