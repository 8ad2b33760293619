//! The store suite: one set of cases, run over SQLite and over Postgres.

#![allow(clippy::unwrap_used, reason = "a case that cannot go on has failed")]

mod backend;
mod cases;
mod requests;

use backend::{Backend, OnPostgres, OnSqlite};

/// Makes a test of each case for each backend.
macro_rules! suite {
    ($($case:ident::$name:ident,)*) => {
        mod sqlite {
            use crate::backend::{Backend, OnSqlite};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::cases::$case::$name(OnSqlite::start()).await;
            })*
        }

        mod postgres {
            use crate::backend::{Backend, OnPostgres};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::cases::$case::$name(OnPostgres::start()).await;
            })*
        }
    };
}

suite! {
    objects::an_object_lives_from_creation_to_deletion,
    objects::a_stale_resource_version_is_a_conflict,
    objects::preconditions_hold_or_nothing_is_written,
    objects::a_write_that_changes_nothing_is_no_write,
    objects::one_transaction_is_one_revision,
    objects::secrets_are_sealed_as_whole_objects,
    objects::values_survive_as_they_are,
    order::sixteen_writers_and_no_watcher_skips_or_reorders,
    order::a_watch_resumes_from_where_it_was,
    order::a_compacted_past_is_expired,
    order::a_write_shows_in_the_snapshot_at_once,
    outages::everything_is_there_after_a_restart,
    outages::a_newer_schema_is_refused,
    outages::a_wrong_master_key_is_refused,
    by_hand::a_row_edited_by_sql_goes_live,
    by_hand::an_invalid_row_is_quarantined,
    by_hand::a_row_inserted_and_deleted_by_sql_is_seen,
    beside::a_single_use_token_is_used_once,
    beside::tokens_show_in_the_snapshot,
    beside::keys_are_agreed_on_and_sealed,
    beside::the_states_of_proxies_are_merged,
    beside::a_lease_has_one_holder,
    beside::upkeep_forgets_what_is_past,
    outages::a_replaced_database_is_read_anew,
    workloads::a_workload_is_an_endpoint_and_no_revision,
    workloads::a_workload_is_held_by_one_replica,
    workloads::what_a_dead_replica_held_expires,
    workloads::what_is_written_by_hand_wins,
    workloads::a_group_is_the_template_of_its_workloads,
    workloads::a_watch_sees_what_is_generated_in_one_order,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_stopped_and_started_under_it() {
    cases::outages::the_database_goes_away_and_comes_back(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash() {
    cases::outages::what_was_acknowledged_survives_a_crash(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_used_is_named() {
    cases::outages::a_server_that_cannot_be_used_is_named(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_postgres_cannot_hold_is_refused() {
    cases::objects::a_value_that_postgres_cannot_hold_is_refused(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_is_named() {
    cases::outages::a_file_that_cannot_be_used_is_named(OnSqlite::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_see_each_others_writes() {
    cases::replicas::a_write_at_one_replica_shows_at_the_other(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_lease() {
    cases::replicas::a_lease_passes_on_when_its_holder_ends(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_by_hand_is_one_revision() {
    cases::by_hand::one_transaction_by_hand_is_one_revision(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hands_and_programs_write_in_one_order() {
    cases::by_hand::hands_and_programs_write_in_one_order(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_left_open_in_psql_is_named() {
    cases::by_hand::a_transaction_left_open_in_psql_is_named(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_is_a_table_to_look_at_and_to_write_to() {
    cases::by_hand::a_kind_is_a_table(OnPostgres::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() {
    cases::full_disk::a_full_disk_loses_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_at_its_bound_loses_nothing() {
    cases::full_disk::a_file_at_its_bound_loses_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_falls_behind_reads_the_database() {
    cases::order::a_watcher_that_falls_behind_reads_the_database(OnSqlite::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_serves_one_process() {
    cases::outages::a_file_serves_one_process(OnSqlite::start()).await;
}
