use super::read::duration;
use super::*;

const GOOD: &[(&str, &str)] = &[
    ("--pod-name", "reviews-v1"),
    ("--pod-namespace", "shop"),
    ("--service-account", "reviews"),
    ("--pod-ip", "10.1.2.3"),
    ("--control-plane", "weir-control-plane.weir-system:15410"),
    ("--trust-bundle", "/bundle.pem"),
    ("--token", "/token"),
];

fn read(more: &[(&str, &str)]) -> Result<Settings, BadUsage> {
    let flags = GOOD.iter().chain(more).map(|(flag, value)| format!("{flag}={value}"));
    Settings::read(std::iter::once("weir-proxy".to_owned()).chain(flags))
}

fn refused(more: &[(&str, &str)]) -> String {
    read(more).unwrap_err().to_string()
}

#[test]
fn what_is_not_said_has_its_default() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.outbound_listen.to_string(), "127.0.0.1:15401");
    assert_eq!(settings.inbound_listen.unwrap().to_string(), "0.0.0.0:15406");
    assert_eq!(settings.admin_listen.to_string(), "0.0.0.0:15420");
    assert_eq!((settings.trust_domain.as_str(), settings.cluster_domain.as_str()), ("cluster.local", "cluster.local"));
    assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    assert_eq!(settings.workers, available_cores());
    assert_eq!(settings.state_dir, None);
}

#[test]
fn inbound_mappings_stand_instead_of_redirection() {
    let mapping = ("--inbound", "127.10.0.1:8080=127.0.0.1:18080, 127.10.0.1:9090=127.0.0.1:19090");
    let settings = read(&[mapping]).unwrap();
    assert_eq!(settings.inbound_listen, None);
    assert_eq!(settings.inbound.len(), 2);
    assert_eq!(settings.inbound[1].app.to_string(), "127.0.0.1:19090");
    let both = read(&[mapping, ("--inbound-listen", "127.0.0.1:15406")]).unwrap();
    assert!(both.inbound_listen.is_some());
}

#[test]
fn only_redirection_keeps_a_pods_calls_to_itself_from_its_own_inbound_side() {
    let is_own = |more: &[(&str, &str)], address: &str| read(more).unwrap().is_own_application(address.parse().unwrap());
    assert!(is_own(&[], "10.1.2.3:8080"));
    assert!(!is_own(&[], "10.1.2.4:8080"), "somebody else's");
    let mapping = ("--inbound", "10.1.2.3:8080=127.0.0.1:18080");
    assert!(!is_own(&[mapping], "10.1.2.3:8080"), "the inbound side listens there");
    let both = [mapping, ("--inbound-listen", "0.0.0.0:15406")];
    assert!(!is_own(&both, "10.1.2.3:8080"));
    assert!(is_own(&both, "10.1.2.3:9090"));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let said = Settings::read(["weir-proxy", "--workers=none", "--pod-ip=ten", "--drain-timeout=soon"]).unwrap_err().to_string();
    for setting in [
        "WEIR_POD_NAME (--pod-name): is not set",
        "WEIR_POD_NAMESPACE",
        "WEIR_SERVICE_ACCOUNT",
        "WEIR_POD_IP (--pod-ip): `ten` is not an IP address",
        "WEIR_CONTROL_PLANE",
        "WEIR_TRUST_BUNDLE",
        "WEIR_TOKEN",
        "WEIR_WORKERS (--workers): `none`",
        "WEIR_DRAIN_TIMEOUT (--drain-timeout): `soon`",
    ] {
        assert!(said.contains(setting), "{setting}: {said}");
    }
    assert!(said.starts_with("weir-proxy: 9 settings are missing or wrong:"), "{said}");
    assert_eq!(said.matches("; write ").count(), 9, "each says what to write: {said}");
}

#[test]
fn each_wrong_value_is_refused_by_name() {
    for (flag, value) in [
        ("--control-plane", "http://a:1"),
        ("--control-plane", "a"),
        ("--control-plane", "a:0"),
        ("--control-plane", "a:99999"),
        ("--control-plane", "::1:80"),
        ("--control-plane", "a/b:80"),
        ("--outbound-listen", "15401"),
        ("--admin-listen", "localhost:1"),
        ("--workers", "0"),
        ("--workers", "4096"),
        ("--inbound", "127.0.0.1:80"),
        ("--inbound", "127.0.0.1:80=127.0.0.1:80"),
        ("--inbound", "127.0.0.1:80=127.0.0.1:0"),
        ("--pod-ip", "0.0.0.0"),
        ("--pod-namespace", "Shop"),
        ("--trust-domain", "a/b"),
        ("--drain-timeout", "2d"),
        ("--drain-timeout", "25h"),
        ("--drain-timeout", "99999999999999999999s"),
        ("--log-format", "xml"),
        ("--log-level", "a=b=c"),
    ] {
        let setting = format!("WEIR_{}", flag.trim_start_matches("--").to_uppercase().replace('-', "_"));
        let flags =
            GOOD.iter().filter(|(name, _)| *name != flag).copied().chain([(flag, value)]).map(|(f, v)| format!("{f}={v}"));
        let said = Settings::read(std::iter::once("weir-proxy".to_owned()).chain(flags)).unwrap_err().to_string();
        assert!(said.contains(&setting) && said.contains("1 setting is"), "{flag}={value}: {said}");
    }
}

#[test]
fn durations_are_read_with_their_unit() {
    for (text, ms) in [("500ms", 500), ("30s", 30_000), ("30", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)] {
        assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
    }
}

#[test]
fn two_listeners_at_one_address_are_refused() {
    let said = refused(&[("--admin-listen", "127.0.0.1:15401")]);
    assert!(said.contains("WEIR_ADMIN_LISTEN (--admin-listen): 127.0.0.1:15401 is taken by WEIR_OUTBOUND_LISTEN"), "{said}");
    let said = refused(&[("--inbound", "127.1.0.1:80=127.0.0.1:81,127.1.0.1:80=127.0.0.1:82")]);
    assert!(said.contains("is taken by WEIR_INBOUND already"), "{said}");
    assert!(read(&[("--admin-listen", "127.0.0.1:0"), ("--outbound-listen", "127.0.0.1:0")]).is_ok());
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let settings = read(&[("--state-dir", ""), ("--workers", " ")]).unwrap();
    assert_eq!((settings.state_dir, settings.workers), (None, available_cores()));
}

#[test]
fn help_names_every_variable() {
    use clap::CommandFactory;
    let help = Flags::command().render_long_help().to_string();
    for argument in Flags::command().get_arguments().filter(|it| !matches!(it.get_id().as_str(), "help" | "version")) {
        let variable = argument.get_env().unwrap().to_string_lossy().into_owned();
        assert!(help.contains(&variable), "{variable}");
        assert_eq!(variable, format!("WEIR_{}", argument.get_id().as_str().to_uppercase()));
    }
}

#[test]
fn ipv6_is_listened_at_wherever_nobody_said_otherwise() {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let all = read(&[]).unwrap().ipv6;
    assert_eq!(text(all.outbound).as_deref(), Some("[::1]:15401"));
    assert_eq!(text(all.inbound).as_deref(), Some("[::]:15406"));
    assert_eq!(text(all.admin).as_deref(), Some("[::]:15420"));
    let said =
        [("--outbound-listen", "127.0.0.1:15401"), ("--inbound-listen", "0.0.0.0:15406"), ("--admin-listen", "127.0.0.1:15420")];
    assert_eq!(read(&said).unwrap().ipv6, Ipv6Listeners::default());
    assert_eq!(read(&[("--inbound", "127.1.0.1:80=127.0.0.1:81")]).unwrap().ipv6.inbound, None);
}

#[test]
fn probes_that_cannot_be_read_are_named_with_the_other_settings() {
    let said = refused(&[("--probes", r#"{"app/readiness": {"tcpSocket": {"port": 0}}}"#), ("--drain-quiet", "soon")]);
    assert!(said.contains("WEIR_PROBES (--probes): probe `app/readiness`: port 0 is none; write"), "{said}");
    assert!(said.contains("2 settings"), "{said}");
}

/// Kubernetes gives containers variables like these for each Service of the namespace, with an address as their value.
#[test]
fn what_a_service_of_some_name_would_set_is_known() {
    use clap::CommandFactory;
    let from_a_service = |variable: &str| {
        let port = variable.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
        variable.ends_with("_PORT") || variable.ends_with("_SERVICE_HOST") || variable.contains("_SERVICE_PORT") || port
    };
    let command = Flags::command();
    let all = command.get_subcommands().chain([&command]).flat_map(clap::Command::get_arguments);
    let mut collide: Vec<String> = all
        .filter_map(|it| Some(it.get_env()?.to_string_lossy().into_owned()))
        .filter(|variable| from_a_service(variable))
        .collect();
    collide.sort();
    // The injector sets these three; one more here has to be set there as well.
    assert_eq!(collide, ["WEIR_ADMIN_PORT", "WEIR_INBOUND_PORT", "WEIR_OUTBOUND_PORT"]);
}
