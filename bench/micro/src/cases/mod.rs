//! The cases: each is a name and one decision, with everything that it needs made beforehand.

mod balancing;
mod headers;
mod routing;
mod sniffing;

/// One decision that can be made again and again.
pub struct Case {
    name: String,
    run: Box<dyn FnMut()>,
}

impl Case {
    fn new(name: impl Into<String>, run: impl FnMut() + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// What is decided, from the general to the special, with slashes in between.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Decides once.
    pub fn once(&mut self) {
        (self.run)();
    }
}

/// All cases, in the order in which they are reported.
#[must_use]
pub fn cases() -> Vec<Case> {
    [routing::cases(), balancing::cases(), headers::cases(), sniffing::cases()].into_iter().flatten().collect()
}
