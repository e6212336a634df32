//! A load in a pod of its own.

use super::{App, Pod, Scenario, until};
use crate::netns::Namespace;
use crate::test_app::load::Summary;
use crate::wait::ensure;

/// A pod that sends requests.
pub struct Load {
    name: String,
    pod: Pod,
    /// Found once: the API server may be away when the load is asked.
    network: Namespace,
}

impl Load {
    /// Starts a pod that sends requests to `url` with these further options of `weir-test-app load`, and waits until the first
    /// have been answered.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start(scenario: &Scenario, name: &str, url: &str, options: &[&str]) -> Self {
        let app = App::running(name, &[&["load", url], options].concat());
        scenario.apply(&app.single()).await;
        scenario.pod_is_ready(name).await;
        let pod = scenario.pod(name).await;
        let network = pod.network().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let load = Self { name: name.to_owned(), pod, network };
        load.passes(20).await;
        load
    }

    /// Waits until `count` more requests have ended, well or not.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub async fn passes(&self, count: u64) {
        let goal = self.summary().await.sent + count;
        until(&format!("the load {} has sent {goal} requests", self.name), async || {
            let summary = self.tell("summary").await?;
            ensure(summary.sent >= goal, || format!("it has sent {}, and {:?} failed", summary.sent, summary.failures))
        })
        .await;
    }

    /// What became of the requests so far.
    ///
    /// # Panics
    ///
    /// When the load has ended.
    pub async fn summary(&self) -> Summary {
        until(&format!("the load {} tells how it fares", self.name), async || self.tell("summary").await).await
    }

    /// Ends it and answers with what became of all requests.
    ///
    /// # Panics
    ///
    /// When it has ended by itself.
    pub async fn stop(self) -> Summary {
        until(&format!("the load {} ends", self.name), async || self.tell("stop").await).await
    }

    /// Ends it and fails unless every request succeeded.
    ///
    /// # Panics
    ///
    /// When a request failed.
    pub async fn lost_none(self) -> Summary {
        let name = self.name.clone();
        let summary = self.stop().await;
        assert!(summary.failed == 0, "{name}: {} of {} requests failed: {:#?}", summary.failed, summary.sent, summary.failures);
        assert!(summary.succeeded > 0, "{name}: no request was sent");
        eprintln!("{name}: {} requests, none failed, answered by {:?}", summary.sent, summary.by_app);
        summary
    }

    /// The pod that it is.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Asked from the node, in the pod's own network: the API server may be away.
    async fn tell(&self, word: &str) -> Result<Summary, String> {
        let control = (std::net::Ipv4Addr::LOCALHOST, crate::test_app::CONTROL_PORT).into();
        let answer = self.network.get(control, &format!("/{word}")).await?;
        serde_json::from_slice(&answer.body).map_err(|error| format!("{word}: {error}: {}", answer.text()))
    }
}
