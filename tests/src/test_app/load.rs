//! Requests at a rate. Each is sent once: what a caller sees is what is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::target::Call;
use super::{CONTROL_PORT, control, signal};

/// Failures that are kept word by word.
const SHOWN: usize = 20;

/// What to say, once or many times.
#[derive(Args, Clone, Debug)]
pub struct Message {
    /// http, h2c, https, grpc, tcp or banner, and then HOST[:PORT]/PATH
    url: String,
    /// Method of an HTTP request
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Body of an HTTP request
    #[arg(long, default_value = "")]
    body: String,
    /// Header of an HTTP request, as NAME:VALUE
    #[arg(long)]
    header: Vec<String>,
}

impl Message {
    /// The call that it means.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn call(&self) -> Result<Call, String> {
        let header = |text: &String| {
            let (name, value) = text.split_once(':').ok_or_else(|| format!("--header {text}: write NAME:VALUE"))?;
            let name = HeaderName::try_from(name.trim()).map_err(|error| format!("--header {text}: {error}"))?;
            let value = HeaderValue::try_from(value.trim()).map_err(|error| format!("--header {text}: {error}"))?;
            Ok((name, value))
        };
        let headers = self.header.iter().map(header).collect::<Result<_, String>>()?;
        Ok(Call { target: self.url.parse()?, method: self.method.clone(), headers, body: Bytes::from(self.body.clone()) })
    }
}

/// A GET of a URL.
///
/// # Errors
///
/// When it is none.
pub(super) fn plain_call(url: &str) -> Result<Call, String> {
    Ok(Call { target: url.parse()?, method: Method::GET, headers: Vec::new(), body: Bytes::new() })
}

/// A load.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    message: Message,
    /// Requests a second, of all clients together
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Requests after which it ends; without it, on SIGTERM or when the control page says `stop`
    #[arg(long)]
    count: Option<u64>,
    /// Clients, each with a connection that it keeps
    #[arg(long, default_value_t = 2)]
    clients: u32,
    /// A new connection for every request
    #[arg(long)]
    fresh: bool,
    /// Port of the control page on loopback; 0 for none
    #[arg(long, default_value_t = CONTROL_PORT)]
    control: u16,
}

/// What became of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests whose end is known.
    pub sent: u64,
    /// Those that were answered with a success.
    pub succeeded: u64,
    /// All others.
    pub failed: u64,
    /// Successes by the application and version that answered.
    pub by_app: BTreeMap<String, u64>,
    /// The first failures, each with the seconds since the start.
    pub failures: Vec<String>,
}

impl Summary {
    fn add(&mut self, since_start: Duration, outcome: Result<String, String>) {
        self.sent += 1;
        match outcome {
            Ok(app) => {
                self.succeeded += 1;
                *self.by_app.entry(app).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < SHOWN {
                    self.failures.push(format!("after {:.2} s: {error}", since_start.as_secs_f64()));
                }
            }
        }
    }

    /// As one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A load that runs: what its clients share.
struct Running {
    call: Call,
    fresh: bool,
    start: Instant,
    /// Requests that may still be begun.
    left: Mutex<u64>,
    summary: Mutex<Summary>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

/// Sends until it is told to stop or has sent all, and answers with what became of them.
///
/// # Errors
///
/// When a setting makes no sense.
pub async fn run(settings: Settings) -> Result<Summary, String> {
    let mut told = signal::told_to_end()?;
    let running = Arc::new(Running::new(&settings, settings.count)?);
    let page = Arc::clone(&running);
    control::serve(settings.control, move |word| Arc::clone(&page).answer(word)).await?;
    let stop = running.stop.clone();
    tokio::spawn(async move {
        let _ = told.wait_for(|told| *told).await;
        stop.send_replace(true);
    });
    // A Service that was just made takes a moment to reach the cluster's DNS, longest after the API server was away; what is
    // counted is what the mesh does.
    running.call.target.known().await;
    let summary = running.drive(settings.rate, settings.clients).await;
    // Whoever said `stop` on the page is still to be answered.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(summary)
}

/// Waits for SIGTERM, as an application that tidies up does, then sends for this long.
///
/// # Errors
///
/// When a setting makes no sense.
pub async fn run_after_sigterm(settings: Settings, length: Duration) -> Result<Summary, String> {
    let running = Running::new(&settings, None)?;
    let _ = signal::told_to_end()?.wait_for(|told| *told).await;
    let stop = running.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(length).await;
        stop.send_replace(true);
    });
    Ok(running.drive(settings.rate, settings.clients).await)
}

impl Running {
    fn new(settings: &Settings, count: Option<u64>) -> Result<Self, String> {
        if !(settings.rate > 0.0 && settings.rate <= 10_000.0) || settings.clients == 0 {
            return Err("--rate is to be between 0 and 10000, and --clients at least 1".to_owned());
        }
        Ok(Self {
            call: settings.message.call()?,
            fresh: settings.fresh,
            start: Instant::now(),
            left: Mutex::new(count.unwrap_or(u64::MAX)),
            summary: Mutex::default(),
            stop: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        })
    }

    /// A word of the control page: `summary`, or `stop`, which is answered when the last request has ended.
    async fn answer(self: Arc<Self>, word: String) -> Option<String> {
        match word.as_str() {
            "summary" => {}
            "stop" => {
                self.stop.send_replace(true);
                let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
            }
            _ => return None,
        }
        Some(self.summary().json())
    }

    fn summary(&self) -> Summary {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn drive(&self, rate: f64, clients: u32) -> Summary {
        let period = Duration::from_secs_f64(f64::from(clients) / rate);
        let mut each = Vec::new();
        for index in 0..clients {
            each.push(self.client(period, period * index / clients));
        }
        futures_util::future::join_all(each).await;
        self.ended.send_replace(true);
        self.summary()
    }

    async fn client(&self, period: Duration, offset: Duration) {
        let mut stop = self.stop.subscribe();
        let mut connection = None;
        tokio::time::sleep(offset).await;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.take_one() {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => {}
            }
            let outcome = self.one(&mut connection).await;
            let mut summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.add(self.start.elapsed(), outcome);
        }
    }

    fn take_one(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = match left.checked_sub(1) {
            Some(rest) => rest,
            None => return false,
        };
        true
    }

    /// One request, on the connection of before if it is still good. The answer's sender comes back.
    async fn one(&self, kept: &mut Option<crate::client::Connection>) -> Result<String, String> {
        if !self.call.is_http() {
            return self.call.once().await.map(|_| "tcp".to_owned());
        }
        let mut connection = match kept.take().filter(|kept| kept.is_open()) {
            Some(connection) => connection,
            None => self.call.connect().await?,
        };
        let answer = self.call.send(&mut connection).await?;
        if !self.fresh && answer.header("connection") != Some("close") {
            *kept = Some(connection);
        }
        let version = answer.header("x-version").unwrap_or_default();
        Ok(format!("{} {version}", answer.app()).trim().to_owned())
    }
}
