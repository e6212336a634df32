//! Requests are routed by method, path, headers and query, the most specific rule first, and changed on the way as the rule
//! says. The tables are tested in the core; these go over the wire.

use weir_tests::prelude::*;

/// Two versions behind one Service, and these rules.
async fn routed(rules: &str) -> (Mesh, Workload, [Workload; 2]) {
    let mesh = Mesh::start().await;
    let (caller, one, two) = tokio::join!(mesh.caller(), mesh.backend("reviews-v1"), mesh.backend("reviews-v2"));
    mesh.service("reviews").backed_by([&one]).apply();
    mesh.route("reviews", rules);
    // A path that only the rules of a scenario know: it tells that they are in force.
    mesh.gets(&caller, "http://reviews/in-force", 200).await;
    (mesh, caller, [one, two])
}

const BY_EVERYTHING: &str = "
- matches: [{path: {type: PathPrefix, value: /}}, {path: {type: Exact, value: /in-force}}]
  backendRefs: [{name: reviews-v1, port: 80}]
- matches:
  - {path: {type: PathPrefix, value: /}, headers: [{name: X-Version, value: two}]}
  - {path: {type: PathPrefix, value: /}, method: PUT}
  - {path: {type: PathPrefix, value: /}, queryParams: [{name: version, value: two}]}
  - {path: {type: PathPrefix, value: /v2}}
  - {path: {type: RegularExpression, value: '/item-[0-9]+'}}
  - {path: {type: PathPrefix, value: /}, headers: [{name: user-agent, type: RegularExpression, value: '.*(Beta|Canary).*'}]}
  backendRefs: [{name: reviews-v2, port: 80}]
- matches: [{path: {type: Exact, value: /v2/exactly}}]
  backendRefs: [{name: reviews-v1, port: 80}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_path_headers_and_query_choose_the_rule() {
    let (_mesh, caller, _backends) = routed(BY_EVERYTHING).await;
    let client = caller.client();
    let get = |path: &str| client.request(Method::GET, &format!("http://reviews{path}"));
    for (what, request, version) in [
        ("nothing special", get("/"), "reviews-v1"),
        ("a header, in any case", get("/").header("x-version", "two"), "reviews-v2"),
        ("a header's value keeps its case", get("/").header("x-version", "Two"), "reviews-v1"),
        ("a method", client.request(Method::PUT, "http://reviews/"), "reviews-v2"),
        ("a query parameter", get("/?a=b&version=two"), "reviews-v2"),
        ("the first of two parameters counts", get("/?version=one&version=two"), "reviews-v1"),
        ("a prefix", get("/v2"), "reviews-v2"),
        ("a prefix and more", get("/v2/x"), "reviews-v2"),
        ("a prefix is whole segments", get("/v2x"), "reviews-v1"),
        ("an exact path wins over a longer list", get("/v2/exactly"), "reviews-v1"),
        ("an exact path wins over a header", get("/v2/exactly").header("x-version", "two"), "reviews-v1"),
        ("a regular expression", get("/item-17"), "reviews-v2"),
        ("a regular expression matches whole", get("/item-17x"), "reviews-v1"),
        ("a header's regular expression", get("/").header("user-agent", "Chrome Canary 1"), "reviews-v2"),
    ] {
        let answer = request.send().await;
        assert_eq!((answer.status.as_u16(), answer.app()), (200, version), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_reached_by_every_form_of_its_name_and_by_its_address() {
    let (mesh, caller, _backends) = routed(BY_EVERYTHING).await;
    let address = mesh.cluster_ip("reviews");
    for host in [
        "reviews".to_owned(),
        "reviews:80".to_owned(),
        "reviews.shop".to_owned(),
        "reviews.shop.svc".to_owned(),
        "reviews.shop.svc.cluster.local".to_owned(),
        "REVIEWS.Shop.svc.cluster.local.:80".to_owned(),
        address.to_string(),
    ] {
        let answer = mesh.gets(&caller, &format!("http://{host}/v2"), 200).await;
        assert_eq!(answer.app(), "reviews-v2", "the route holds for {host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_changed_on_the_way_there_and_back() {
    let (_mesh, caller, _backends) = routed(
        "
        - filters:
          - type: RequestHeaderModifier
            requestHeaderModifier:
              set: [{name: X-Set, value: new}]
              add: [{name: x-add, value: more}]
              remove: [x-remove]
          - type: ResponseHeaderModifier
            responseHeaderModifier:
              set: [{name: x-app, value: renamed}]
              add: [{name: x-extra, value: 'yes'}]
          backendRefs: [{name: reviews-v1, port: 80}]",
    )
    .await;
    let request = caller.client().request(Method::GET, "http://reviews/");
    let request = request.header("x-set", "old").header("x-add", "some").header("x-remove", "gone").header("x-kept", "kept");
    let answer = request.send().await;
    assert_eq!(answer.seen_header("x-set"), ["new"]);
    assert_eq!(answer.seen_header("x-add").join(",").replace(' ', ""), "some,more");
    assert!(answer.seen_header("x-remove").is_empty());
    assert_eq!(answer.seen_header("x-kept"), ["kept"]);
    assert_eq!(answer.header("x-app"), Some("renamed"));
    assert_eq!(answer.header("x-extra"), Some("yes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_answered_and_rewrites_are_carried_out() {
    let (_mesh, caller, _backends) = routed(
        "
        - matches: [{path: {type: PathPrefix, value: /old}}]
          filters:
          - type: RequestRedirect
            requestRedirect:
              scheme: https
              hostname: shop.example
              path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}
              statusCode: 301
        - matches: [{path: {type: PathPrefix, value: /api}}]
          filters:
          - type: URLRewrite
            urlRewrite:
              hostname: inner.example
              path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}
          backendRefs: [{name: reviews-v1, port: 80}]
        - matches: [{path: {type: Exact, value: /in-force}}]
          backendRefs: [{name: reviews-v1, port: 80}]",
    )
    .await;
    let answer = caller.client().get("http://reviews/old/page?q=1").await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("location"), Some("https://shop.example/new/page?q=1"));
    let answer = caller.client().get("http://reviews/api/things?q=1").await;
    assert_eq!(answer.seen()["path"], "/v1/things");
    assert_eq!(answer.seen()["query"], "q=1");
    assert_eq!(answer.seen_header("host"), ["inner.example"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browsers_question_is_answered_and_the_answer_says_who_may_read_it() {
    let (_mesh, caller, _backends) = routed(
        "
        - filters:
          - type: CORS
            cors:
              allowOrigins: ['https://*.shop.example']
              allowMethods: [GET, PUT]
              allowHeaders: [x-cart]
              exposeHeaders: [x-total]
              allowCredentials: true
              maxAge: 60
          backendRefs: [{name: reviews-v1, port: 80}]",
    )
    .await;
    let ask = |method: Method, origin: &'static str| caller.client().request(method, "http://reviews/").header("origin", origin);
    let preflight = |origin| {
        let request = ask(Method::OPTIONS, origin).header("access-control-request-method", "PUT");
        request.header("access-control-request-headers", "x-cart")
    };
    let answer = preflight("https://web.shop.example").send().await;
    assert_eq!((answer.status.as_u16(), answer.header("weir-error")), (204, None), "no backend is asked");
    for (name, value) in [
        ("access-control-allow-origin", "https://web.shop.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "x-cart"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "60"),
        ("vary", "Origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let answer = preflight("https://evil.example").send().await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, None));

    let answer = ask(Method::GET, "https://web.shop.example").send().await;
    assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews-v1"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://web.shop.example"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-total"));
    let answer = ask(Method::GET, "https://evil.example").send().await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_sees_the_host_that_the_client_wrote() {
    let (_mesh, caller, _backends) = routed(BY_EVERYTHING).await;
    for host in ["reviews", "reviews.shop:80"] {
        let answer = caller.client().get(&format!("http://{host}/")).await;
        assert_eq!(answer.seen_header("host"), [host]);
        assert_eq!(answer.seen()["version"], "HTTP/1.1");
        assert_eq!(answer.seen()["path"], "/", "an application is asked in origin form");
    }
}
