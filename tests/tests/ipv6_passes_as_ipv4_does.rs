//! A pod with IPv4 and IPv6: what it sends and what it gets passes its sidecar on both, and nobody notices a difference.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use weir_tests::metrics::Metrics;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;
use weir_tests::sandbox::{HOST, POD, Sandbox};

async fn counted(sandbox: &Sandbox, metric: &str, direction: &str) -> f64 {
    let page = sandbox.admin(POD[0], "/metrics").await.unwrap();
    Metrics::parse(&page.text()).unwrap().sum(metric, &[("direction", direction)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirected_connections_of_both_families_arrive_where_they_were_going() {
    let sandbox = Sandbox::meshed(&[], &[]).await;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080));
    let inside = App::http("inside").serve(sandbox.pod.listen(any));
    let outside = App::http("outside").serve(sandbox.host.listen(any));
    let echo = App::TcpEcho.serve(sandbox.host.listen((Ipv6Addr::UNSPECIFIED, 9000).into()));
    for (count, family) in [0, 1].into_iter().enumerate() {
        let (pod, host) = (POD[family], HOST[family]);
        let answer = sandbox.host.get((pod, 8080).into(), "/in").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.app()), (200, "inside"), "to {pod}");
        let answer = sandbox.pod.get((host, 8080).into(), "/out").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.app()), (200, "outside"), "to {host}");
        let requests = u64::try_from(count + 1).unwrap();
        assert_eq!((inside.requests("/in"), outside.requests("/out")), (requests, requests));
        let mut raw = Raw::over(sandbox.pod.connect((host, 9000).into()).unwrap());
        raw.write("bytes of another protocol").await;
        raw.until("bytes of another protocol").await;
        // They have passed the sidecar, and not around it.
        for (metric, direction) in [("weir_http_requests_total", "inbound"), ("weir_tcp_connections_total", "outbound")] {
            until("the requests are counted", async || {
                let sum = counted(&sandbox, metric, direction).await;
                ensure(sum >= f64::from(u8::try_from(requests).unwrap()), || format!("{direction}: {sum}"))
            })
            .await;
        }
    }
    assert_eq!(echo.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecars_own_ports_are_no_way_around_on_either_family() {
    let sandbox = Sandbox::meshed(&[], &[]).await;
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    for (pod, loopback) in POD.into_iter().zip(loopback) {
        // From another machine the outbound side is not there, and the inbound side closes what was not redirected.
        let outbound: SocketAddr = (pod, 15401).into();
        assert!(sandbox.host.connect(outbound).is_err(), "{outbound}");
        let mut raw = Raw::over(sandbox.host.connect((pod, 15406).into()).unwrap());
        assert!(raw.exchange("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.is_empty());
        // The application cannot ask the outbound side for itself.
        let url = format!("http://{}/", SocketAddr::new(loopback, 15401));
        let answer = sandbox.pod.get((loopback, 15401).into(), "/").await.unwrap();
        assert!(answer.status.as_u16() >= 400, "{url}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_ipv6_is_none_the_worse_for_it() {
    let mut sandbox = Sandbox::new(&[]).await;
    sandbox.pod.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
    sandbox.pod.redirect();
    sandbox.start_sidecar(&[("WEIR_POD_IP", "10.1.0.2")]);
    sandbox.ready().await;
    let _inside = App::http("inside").serve(sandbox.pod.listen("0.0.0.0:8080".parse().unwrap()));
    assert_eq!(sandbox.host.get((POD[0], 8080).into(), "/").await.unwrap().status, 200);
}
