use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use super::*;

fn args(to: &str) -> RequestArgs {
    RequestArgs {
        from: "shop/frontend".into(),
        to: to.into(),
        method: "GET".into(),
        headers: Vec::new(),
        source: "kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        cluster: ContextArgs { context: None },
        output: Output::Table,
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn explained(directory: &Path, args: &RequestArgs) -> String {
    let loaded = load::directory(directory).unwrap();
    render::text(&explain(&loaded.index, &question(args).unwrap()), args.output)
}

#[test]
fn a_canary_says_who_gets_which_share() {
    assert_snapshot!(explained(&example("canary"), &args("http://catalog/items?page=2")), @r#"
    ✓ The request goes to shop/catalog-v1:80 under HTTPRoute shop/catalog rule 0

    destination  Service shop/catalog, port 80 (HTTP)
    rule         HTTPRoute shop/catalog rule 0

    backends
         100 %  shop/catalog-v1:80
                as GET /items?page=2 (host catalog)
                127.10.1.2:9080  catalog-v1-a  spiffe://cluster.local/ns/shop/sa/catalog
                127.10.1.3:9080  catalog-v1-b  spiffe://cluster.local/ns/shop/sa/catalog
           0 %  shop/catalog-v2:80
                as GET /items?page=2 (host catalog)
                127.10.1.4:9080  catalog-v2  spiffe://cluster.local/ns/shop/sa/catalog

    rules, the most specific match first
     → HTTPRoute shop/catalog rule 0  everything: taken
    "#);
}

#[test]
fn a_rule_that_does_not_match_says_what_is_missing() {
    let request = RequestArgs { from: "web/frontend".into(), headers: vec!["x-beta: false".into()], ..args("http://search/") };
    assert_snapshot!(explained(&example("header-routing"), &request), @r#"
    ✓ The request goes to web/search-v1:80 under HTTPRoute web/search rule 2

    destination  Service web/search, port 80 (HTTP)
    rule         HTTPRoute web/search rule 2

    backends
         100 %  web/search-v1:80
                as GET / (host search)
                127.10.4.2:9080  search-v1  spiffe://cluster.local/ns/web/sa/search

    rules, the most specific match first
       HTTPRoute web/search rule 1  path prefix /find: the path is another
       HTTPRoute web/search rule 0  path prefix /, header x-beta = true: header x-beta has another value
       HTTPRoute web/search rule 0  path prefix /, header user-agent ~ .*(iPhone|Android).*: there is no header user-agent
       HTTPRoute web/search rule 0  path prefix /, query version = 2: query parameter version is missing or has another value
     → HTTPRoute web/search rule 2  everything: taken
    "#);
}

#[test]
fn what_fails_says_why_and_how() {
    for (to, expected) in [
        (
            "http://nobody.shop/",
            "✗ The request is answered with 503: there is no Service shop/nobody (weir-error: unknown-destination)",
        ),
        (
            "http://catalog:81/",
            "✗ The request is answered with 503: Service shop/catalog has no port 81; it has 80 (weir-error: unknown-port)",
        ),
        (
            "http://www.example.com:8080/",
            "✓ The request goes to www.example.com:8080 outside the mesh as it is, if DNS knows an address that no Service has",
        ),
    ] {
        let said = explained(&example("canary"), &args(to));
        assert_eq!(said.lines().next(), Some(expected), "{said}");
    }
}

#[test]
fn programs_get_the_same_as_json() {
    let request = RequestArgs { output: Output::Json, ..args("http://catalog/items") };
    let value: serde_json::Value = serde_json::from_str(&explained(&example("canary"), &request)).unwrap();
    assert_eq!(value["outcome"]["kind"], "forwarded");
    assert_eq!(value["rule"], "HTTPRoute shop/catalog rule 0");
}

#[test]
fn every_mistake_of_the_command_line_is_named_at_once() {
    let wrong = RequestArgs {
        from: "frontend".into(),
        method: "G T".into(),
        headers: vec!["x-beta".into()],
        trust_domain: "-".into(),
        ..args("catalog/items")
    };
    let errors = question(&wrong).unwrap_err();
    for setting in ["--from", "--to", "--method", "--header", "--trust-domain"] {
        assert!(errors.iter().any(|error| error.starts_with(setting)), "{setting}: {errors:#?}");
    }
    assert_eq!(errors.len(), 5);
    assert!(load::Source::read("dir:").is_err() && load::Source::read("files").is_err());
    assert_eq!(load::Source::read("dir:a/b"), Ok(load::Source::Directory("a/b".into())));
}
