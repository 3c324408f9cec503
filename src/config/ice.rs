//! The STUN and TURN servers of the settings: read, completed with a password that stands in a file, and checked.
//!
//! Invariant: no error says a password.

use std::path::Path;

use anyhow::Context as _;
use wtfs_torrent::{IceServer, RelayPolicy};

use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::printable;

/// The servers of `typed`; the word `none` alone is none.
pub(super) fn servers(
    typed: Option<&[String]>,
    password_file: Option<&Path>,
) -> anyhow::Result<Option<Vec<IceServer>>> {
    let Some(typed) = typed else { return Ok(None) };
    if typed.len() == 1 && typed[0] == "none" {
        return Ok(Some(Vec::new()));
    }
    let shown = |text: &str| printable(&IceServer::without_password(text));
    let mut servers = Vec::new();
    for text in typed {
        let server: IceServer =
            text.parse().or_end(Exit::Usage, || format!("ice_servers: {} cannot be used", shown(text)))?;
        servers.push(server);
    }
    if let Some(file) = password_file.filter(|_| servers.iter().any(IceServer::lacks_password)) {
        let password = password(file)?;
        servers = servers.into_iter().map(|server| server.or_password(&password)).collect();
    }
    if let Some(server) = servers.iter().find(|server| server.lacks_password()) {
        let message = format!(
            "ice_servers: {server} wants a password: turn:USER:PASSWORD@HOST in the configuration file or in \
             WTFS_ICE_SERVERS, or --turn-password-file FILE"
        );
        return Err(ended(Exit::Usage, message));
    }
    Ok(Some(servers))
}

/// The first line of the file.
fn password(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the password in {} cannot be read", file.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(ended(Exit::Usage, format!("{}: its first line is no password", file.display())));
    }
    Ok(line.to_owned())
}

/// What `ice_relay_only` means with these servers.
pub(super) fn relay(only: Option<bool>, servers: Option<&[IceServer]>) -> anyhow::Result<RelayPolicy> {
    if !only.unwrap_or(false) {
        return Ok(RelayPolicy::IfNeeded);
    }
    if !servers.is_some_and(|servers| servers.iter().any(IceServer::is_relay)) {
        let message = "ice_relay_only wants a TURN server: --ice-server turn:USER:PASSWORD@HOST";
        return Err(ended(Exit::Usage, message));
    }
    Ok(RelayPolicy::Only)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &[&str], file: Option<&Path>) -> anyhow::Result<Option<Vec<IceServer>>> {
        let typed: Vec<String> = typed.iter().map(|&text| text.to_owned()).collect();
        servers(Some(&typed), file)
    }

    #[test]
    fn none_is_none_and_nothing_is_the_default() {
        assert!(servers(None, None).expect("read").is_none());
        assert_eq!(read(&["none"], None).expect("read"), Some(Vec::new()));
        assert!(read(&["none", "stun:a"], None).is_err());
    }

    #[test]
    fn a_password_may_stand_in_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        std::fs::write(&file, "secret\nand more\n").expect("written");
        let found = read(&["turn:ada@a", "turn:bob:own@b", "stun:c"], Some(&file)).expect("read");
        let passwords: Vec<_> =
            found.iter().flatten().map(|server| server.password().map(str::to_owned)).collect();
        assert_eq!(passwords, [Some("secret".to_owned()), Some("own".to_owned()), None]);
        // A file that nobody needs is not read.
        assert!(read(&["stun:c"], Some(Path::new("/nonexistent"))).is_ok());
        std::fs::write(&file, "\n").expect("written");
        assert!(read(&["turn:ada@a"], Some(&file)).is_err());
        assert!(read(&["turn:ada@a"], Some(Path::new("/nonexistent"))).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for typed in
            ["turn:ada:secret@host:port", "turns:ada:secret@host", "ada:secret@host", "turn:ada@host"]
        {
            let error = read(&[typed], None).expect_err("refused");
            let said = format!("{error:#}");
            assert!(
                said.contains("ice_servers") && said.contains("host") && !said.contains("secret"),
                "{said}"
            );
            assert_eq!(crate::exit::exit_of(&error), Exit::Usage);
        }
    }

    #[test]
    fn relays_alone_want_a_relay() {
        let of = |typed: &[&str]| {
            let servers = read(typed, None).expect("read");
            relay(Some(true), servers.as_deref())
        };
        assert_eq!(of(&["turn:ada:secret@a"]).expect("possible"), RelayPolicy::Only);
        assert!(of(&["stun:a"]).is_err() && of(&["none"]).is_err());
        assert!(relay(Some(true), None).is_err());
        assert_eq!(relay(None, None).expect("the default"), RelayPolicy::IfNeeded);
    }
}
