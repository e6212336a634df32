//! What `weir-proxy init` is told.

use clap::builder::FalseyValueParser;
use ipnet::IpNet;

use super::lists::{self, PortRange};
use crate::settings::{Problem, Reader};

/// The user that the sidecar runs as unless somebody says otherwise.
const PROXY_UID: u32 = 15400;
const OUTBOUND_PORT: u16 = 15401;
const INBOUND_PORT: u16 = 15406;
const ADMIN_PORT: u16 = 15420;

/// What is redirected where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The sidecar's own user, whose connections are left alone; never root.
    pub(super) proxy_uid: u32,
    /// Where the workload's own connections go.
    pub(super) outbound_port: u16,
    /// Where connections to the workload go.
    pub(super) inbound_port: u16,
    /// The sidecar's admin page.
    pub(super) admin_port: u16,
    /// Ports of the workload that are reached directly.
    pub(super) skip_inbound_ports: Vec<PortRange>,
    /// Ports that the workload calls directly.
    pub(super) skip_outbound_ports: Vec<PortRange>,
    /// Networks that the workload calls directly.
    pub(super) skip_outbound_cidrs: Vec<IpNet>,
    /// Whether the rules are put in place or taken away.
    pub(super) action: Action,
    /// Whether it is only printed what would be done.
    pub(super) dry_run: bool,
}

/// Which way the rules change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Redirect,
    Remove,
}

/// Write the rules that redirect this network namespace's traffic into the sidecar, and exit.
///
/// TCP connections that a workload opens go to the sidecar's outbound port, those that others open to it go to the inbound
/// port. Left alone are the sidecar's own connections, everything on the loopback interface, and what is named here. The rules
/// are the nftables table `inet weir`, for IPv4 and IPv6, replaced as a whole each time; other tables are not touched. It
/// needs CAP_NET_ADMIN and a kernel from 5.2 on.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The sidecar's user, whose own connections are not redirected [default: 15400].
    #[arg(long, env = "WEIR_PROXY_UID", value_name = "UID")]
    proxy_uid: Option<String>,
    /// The sidecar's port for connections from the workload [default: 15401].
    #[arg(long, env = "WEIR_OUTBOUND_PORT", value_name = "PORT")]
    outbound_port: Option<String>,
    /// The sidecar's port for connections to the workload [default: 15406].
    #[arg(long, env = "WEIR_INBOUND_PORT", value_name = "PORT")]
    inbound_port: Option<String>,
    /// The sidecar's admin port, which is reached directly [default: 15420].
    #[arg(long, env = "WEIR_ADMIN_PORT", value_name = "PORT")]
    admin_port: Option<String>,
    /// Ports of the workload that others reach past the sidecar.
    #[arg(long, env = "WEIR_SKIP_INBOUND_PORTS", value_name = "PORT|RANGE,...")]
    skip_inbound_ports: Option<String>,
    /// Ports that the workload calls past the sidecar.
    #[arg(long, env = "WEIR_SKIP_OUTBOUND_PORTS", value_name = "PORT|RANGE,...")]
    skip_outbound_ports: Option<String>,
    /// Networks that the workload calls past the sidecar.
    #[arg(long, env = "WEIR_SKIP_OUTBOUND_CIDRS", value_name = "CIDR,...")]
    skip_outbound_cidrs: Option<String>,
    /// Only print what would be done, as a script for `nft -f`.
    #[arg(long, env = "WEIR_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,
    /// Take the rules away instead.
    #[arg(long, env = "WEIR_REMOVE", value_parser = FalseyValueParser::new())]
    remove: bool,
}

impl Settings {
    /// Checks everything.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub(crate) fn check(flags: Flags) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::default();
        let user = "the number of the sidecar's user, for example 15400";
        let port = "a port from 1 to 65535 that nothing else of the pod uses";
        let ports = "ports from 1 to 65535 and ranges, at most 256, for example 3306,9000-9100";
        let cidrs = "networks, at most 256, for example 10.0.0.0/8,fd00::/8";
        let proxy_uid = reader.optional("WEIR_PROXY_UID", flags.proxy_uid, user, uid);
        let outbound_port = reader.optional("WEIR_OUTBOUND_PORT", flags.outbound_port, port, lists::port);
        let inbound_port = reader.optional("WEIR_INBOUND_PORT", flags.inbound_port, port, lists::port);
        let admin_port = reader.optional("WEIR_ADMIN_PORT", flags.admin_port, port, lists::port);
        let skip_inbound_ports = reader.optional("WEIR_SKIP_INBOUND_PORTS", flags.skip_inbound_ports, ports, lists::port_ranges);
        let skip_outbound_ports =
            reader.optional("WEIR_SKIP_OUTBOUND_PORTS", flags.skip_outbound_ports, ports, lists::port_ranges);
        let skip_outbound_cidrs = reader.optional("WEIR_SKIP_OUTBOUND_CIDRS", flags.skip_outbound_cidrs, cidrs, lists::networks);
        let settings = Self {
            proxy_uid: proxy_uid.unwrap_or(PROXY_UID),
            outbound_port: outbound_port.unwrap_or(OUTBOUND_PORT),
            inbound_port: inbound_port.unwrap_or(INBOUND_PORT),
            admin_port: admin_port.unwrap_or(ADMIN_PORT),
            skip_inbound_ports: skip_inbound_ports.unwrap_or_default(),
            skip_outbound_ports: skip_outbound_ports.unwrap_or_default(),
            skip_outbound_cidrs: skip_outbound_cidrs.unwrap_or_default(),
            action: if flags.remove { Action::Remove } else { Action::Redirect },
            dry_run: flags.dry_run,
        };
        settings.different_ports(&mut reader);
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn different_ports(&self, reader: &mut Reader) {
        let ports = [
            ("WEIR_OUTBOUND_PORT", self.outbound_port),
            ("WEIR_INBOUND_PORT", self.inbound_port),
            ("WEIR_ADMIN_PORT", self.admin_port),
        ];
        for (index, (setting, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports.iter().take(index).find(|(_, earlier)| earlier == port) {
                reader.wrong(setting, format!("{port} is {other} already"), "a port of its own");
            }
        }
    }
}

fn uid(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("nothing that a container does as root would be redirected if the sidecar were root".to_owned()),
        // The kernel's word for "nobody at all".
        Ok(u32::MAX) | Err(_) => Err(format!("`{text}` is not the number of a user")),
        Ok(uid) => Ok(uid),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::settings::{Asked, BadUsage};

    /// As the process reads them.
    pub(in crate::init) fn read(flags: &[&str]) -> Result<Settings, String> {
        match Asked::read(["weir-proxy", "init"].into_iter().chain(flags.iter().copied())) {
            Ok(Asked::Init(settings)) => Ok(settings),
            Ok(Asked::Run(_)) => Err("a proxy".to_owned()),
            Err(BadUsage::CommandLine(error)) => Err(error.to_string()),
            Err(problems @ BadUsage::Settings(_)) => Err(problems.to_string()),
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let settings = read(&["--skip-inbound-ports="]).unwrap();
        assert_eq!(settings.proxy_uid, 15400);
        assert_eq!((settings.outbound_port, settings.inbound_port, settings.admin_port), (15401, 15406, 15420));
        assert!(settings.skip_inbound_ports.is_empty() && settings.skip_outbound_cidrs.is_empty());
        assert_eq!((settings.action, settings.dry_run), (Action::Redirect, false));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let wrong = [
            "--proxy-uid=root",
            "--outbound-port=0",
            "--inbound-port=70000",
            "--admin-port=15401",
            "--skip-inbound-ports=80,http",
            "--skip-outbound-ports=90-80",
            "--skip-outbound-cidrs=10.0.0.0/40",
        ];
        let said = read(&wrong).unwrap_err();
        for expected in [
            "7 settings are missing or wrong",
            "WEIR_PROXY_UID (--proxy-uid): `root` is not the number of a user; write the number",
            "WEIR_OUTBOUND_PORT (--outbound-port): `0` is not a port",
            "WEIR_INBOUND_PORT (--inbound-port): `70000` is not a port",
            "WEIR_ADMIN_PORT (--admin-port): 15401 is WEIR_OUTBOUND_PORT already",
            "WEIR_SKIP_INBOUND_PORTS (--skip-inbound-ports): `http` is not a port or a range",
            "WEIR_SKIP_OUTBOUND_PORTS (--skip-outbound-ports): the range `90-80` ends before it starts",
            "WEIR_SKIP_OUTBOUND_CIDRS (--skip-outbound-cidrs): `10.0.0.0/40` is not a network",
        ] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn the_sidecar_is_not_root() {
        for uid in ["0", "4294967295", "-1"] {
            let said = read(&[&format!("--proxy-uid={uid}")]).unwrap_err();
            assert!(said.contains("WEIR_PROXY_UID"), "{said}");
        }
    }
}
