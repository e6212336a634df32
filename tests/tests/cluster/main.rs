//! Weir in a real cluster: installed, injected, identified, redirected, and harmed in every way that its users have met.
//!
//! `make cluster-test` runs these scenarios. Each has a namespace of its own, three run at a time, and those that harm what all
//! need run alone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a scenario ends by panicking; that is how it fails")]

mod a_labelled_namespace_is_in_the_mesh;
mod backend_tls_policies_are_read;
mod backend_traffic_policies_are_read;
mod every_address_of_a_workload_is_reached_under_strict_policy;
mod examples_run_as_they_are;
mod mistakes_are_refused_or_named_and_harm_nothing_else;
mod nobody_gets_an_identity_that_is_not_theirs;
mod nothing_is_lost_while_parts_of_the_cluster_go_away;
mod pods_start_run_and_end_as_without_a_mesh;
mod policies_hold_and_say_so;
mod probes_say_how_the_application_is;
mod weir_check_says_what_is_wrong;
