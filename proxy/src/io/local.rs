//! Spawns hyper's futures on the worker's own thread.

use std::future::Future;

/// An executor for futures that are not `Send`. Only to be used inside a worker's `LocalSet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
