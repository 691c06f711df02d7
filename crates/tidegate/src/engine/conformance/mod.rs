//! One suite for every engine: what the [contract](super) says, sentence by sentence.
//!
//! Each case is a function generic over a [`Fixture`](fixture::Fixture): an engine together with the other ends of its connections. The list
//! at the bottom of this file makes a test of each case for each engine. All calls and all completions pass
//! through the [`Rig`](rig::Rig), whose [`Monitor`](monitor::Monitor) holds the rules that no single case owns: nothing
//! after `Closed`, nothing received unasked, credit never exceeded. `docs/engine.md` has the table from sentence to case.
//!
//! Cases wait for events with a deadline; none sleeps to wait for something.

mod accepting;
mod cancelling;
mod closing;
mod connecting;
mod discarding;
mod expecting;
mod fixture;
#[cfg(unix)]
mod fixture_loopback;
mod fixture_sim;
mod halving;
mod identifiers;
mod material;
mod monitor;
mod overflowing;
mod pausing;
#[cfg(target_os = "linux")]
mod planted;
#[cfg(unix)]
mod real_time;
mod receiving;
mod refusing;
mod rig;
mod sending;
mod sharing;
mod starving;
mod tearing_down;
mod waking;

/// Makes a test of each named case for one engine.
macro_rules! tests_for {
    ($fixture:ty; $($room:ident: $($case:ident),+;)+) => {
        $($(
            #[test]
            fn $case() {
                if <$fixture as super::fixture::Fixture>::available() {
                    super::$room::$case::<$fixture>();
                }
            }
        )+)+
    };
}

/// The cases that every engine passes.
macro_rules! common_cases {
    ($fixture:ty) => {
        tests_for! { $fixture;
            accepting:
                accept_credit_is_never_exceeded,
                every_accepted_connection_comes_with_the_address_of_its_own_peer,
                listeners_are_told_apart,
                a_failed_accept_uses_one_credit_and_is_not_tried_again,
                a_connection_that_was_reset_in_the_backlog_uses_one_credit,
                looking_again_neither_adds_nor_loses_credit,
                closing_a_listener_delivers_what_waits_in_the_backlog,
                a_sweep_takes_no_more_than_it_was_told,
                a_sweep_counts_what_had_been_accepted_already,
                closing_a_listener_takes_back_unused_credit,
                a_stream_that_is_dropped_unadopted_is_closed;
            refusing:
                a_refused_peer_reads_the_answer_and_then_the_end,
                a_refusal_without_an_answer_is_the_end,
                a_refusal_throws_away_what_has_arrived_and_does_not_reset,
                a_refusal_takes_no_place_no_buffer_and_no_completion,
                refusing_a_peer_that_is_gone_harms_nobody,
                what_was_refused_last_is_answered_at_the_end_of_the_engine;
            connecting:
                a_connect_to_a_listener_succeeds_and_carries_bytes_both_ways,
                a_connect_comes_from_the_source_that_was_asked_for,
                a_connect_from_a_source_that_cannot_reach_the_target_fails_and_leaves_a_socket_to_close,
                a_connect_to_nobody_is_refused_and_leaves_a_socket_to_close,
                a_connect_that_nobody_answers_waits_until_it_is_closed_and_fails_once,
                a_close_during_a_connect_delivers_connected_before_closed;
            receiving:
                a_receive_without_data_holds_no_buffer,
                data_arrives_in_order_without_another_call,
                asking_twice_is_asking_once,
                the_end_of_the_stream_comes_once_after_all_data,
                a_reset_is_a_failed_receive_and_comes_once,
                a_full_buffer_is_as_long_as_the_arena_says,
                unread_bytes_are_what_was_not_asked_for_or_unknown;
            pausing:
                pausing_an_idle_receive_completes_and_stops_delivery,
                pausing_a_socket_that_does_not_receive_does_nothing,
                pausing_a_receive_that_was_just_asked_for_loses_nothing,
                pausing_while_data_races_keeps_what_was_filled_in_order,
                a_pause_that_is_called_off_leaves_a_receive_that_goes_on,
                pausing_and_resuming_at_random_loses_and_repeats_nothing,
                a_paused_socket_reports_no_end_of_the_stream,
                a_paused_socket_reports_no_reset,
                a_pause_that_races_the_end_keeps_the_end_for_later,
                a_pause_that_was_called_off_leaves_no_trace_behind_a_later_one,
                a_pause_that_follows_a_receive_hides_the_error_again,
                pausing_a_receive_that_has_ended_does_nothing;
            starving:
                an_empty_arena_is_neither_an_end_nor_an_error,
                as_many_receives_go_on_as_buffers_come_back_first_come_first_served,
                nothing_happens_while_all_receives_wait_for_buffers,
                pausing_a_receive_in_line_gives_up_its_place_and_loses_nothing,
                closing_a_socket_in_line_lets_the_others_go_on,
                an_idle_receive_in_line_keeps_no_buffer_from_others,
                a_buffer_finds_who_has_use_for_it_without_other_traffic,
                the_end_of_a_stream_is_seen_after_starving,
                a_lent_buffer_that_comes_home_revives_a_receive_in_line;
            discarding:
                discarding_counts_every_byte_and_uses_no_buffer,
                what_was_filled_before_a_discard_is_counted_and_goes_home,
                a_discard_of_a_paused_socket_reports_the_end,
                a_discard_reports_a_reset_once,
                a_discard_in_line_needs_no_buffer;
            sharing:
                a_flood_on_one_socket_delays_another_by_one_budget_and_one_batch,
                a_byte_in_the_middle_of_a_flood_arrives_within_one_budget_and_one_batch;
            sending:
                a_send_brings_its_gather_back_with_what_was_taken,
                a_gather_of_many_pieces_arrives_in_order,
                a_large_gather_goes_in_slices_and_every_byte_is_right,
                a_send_that_is_blocked_completes_when_the_peer_reads,
                a_send_after_the_peer_reset_fails_and_the_gather_comes_back,
                a_second_send_is_the_callers_error,
                what_is_sent_is_kept_until_the_send_completes,
                a_received_buffer_is_echoed_without_a_copy,
                both_directions_flow_at_once;
            halving:
                a_half_close_shows_the_end_after_everything_sent,
                receiving_goes_on_after_a_half_close,
                both_sides_half_close_and_every_byte_arrives,
                a_half_close_after_the_peer_is_gone_completes_once;
            closing:
                an_orderly_close_in_every_state_completes_and_shows_the_end,
                an_abort_in_every_state_completes_and_resets,
                a_close_delivers_no_data_and_no_pause_of_what_was_in_flight,
                a_close_with_a_blocked_send_reports_exactly_what_the_peer_gets,
                an_orderly_close_after_a_send_loses_nothing,
                every_socket_closes_once_also_after_an_error;
            cancelling:
                hundreds_of_pauses_through_a_tiny_submission_queue_all_complete,
                hundreds_of_closes_through_a_tiny_submission_queue_all_complete,
                hundreds_of_blocked_sends_are_cancelled_through_a_tiny_submission_queue,
                everything_recorded_before_one_poll_takes_effect_in_order,
                a_receive_that_is_closed_before_it_was_submitted_ends;
            overflowing:
                three_hundred_echoes_survive_a_completion_queue_of_sixteen,
                hundreds_of_closes_survive_a_completion_queue_of_sixteen;
            identifiers:
                indices_stay_below_the_configured_sockets,
                an_index_that_is_used_again_has_another_generation,
                an_index_is_not_used_again_before_the_next_poll,
                every_operation_on_a_stale_id_is_refused,
                a_stale_id_has_no_effect_on_the_next_user_of_its_index,
                adopting_beyond_the_configured_sockets_gives_the_stream_back,
                connecting_beyond_the_configured_sockets_is_refused;
            waking:
                a_wake_before_a_poll_is_reported,
                many_wakes_coalesce_and_none_is_lost,
                clones_of_a_waker_wake_the_same_engine,
                an_engine_with_nothing_to_do_does_nothing,
                time_stands_still_outside_poll,
                methods_only_record_until_the_next_poll,
                a_poll_with_a_deadline_in_the_past_returns_at_once,
                a_poll_reaches_its_deadline,
                a_poll_appends_behind_what_is_there,
                random_numbers_differ;
            tearing_down:
                tear_down_with_everything_in_flight_frees_everything,
                tear_down_with_nothing_polled_frees_everything,
                a_buffer_outlives_its_engine;
        }
    };
}

/// The cases for engines whose operations are with the system, which may end a receive by itself (E23). The one on readiness makes
/// each call itself and hands over nothing.
macro_rules! completion_cases {
    ($fixture:ty) => {
        tests_for! { $fixture; overflowing: a_receive_that_the_system_ended_without_an_error_goes_on; }
    };
}

/// What needs a second thread while `poll` blocks, or the clock on the wall: in a simulated world a poll that waits
/// jumps to its deadline, so there is nothing to interrupt and nothing to measure. And what takes a descriptor, which connects of the
/// simulated world don't.
#[cfg(unix)]
macro_rules! real_cases {
    ($fixture:ty) => {
        tests_for! { $fixture;
            connecting: a_connect_without_a_descriptor_fails_and_leaves_a_socket_to_close;
            real_time:
                a_poll_sleeps_until_its_deadline_and_not_much_longer,
                a_wake_from_another_thread_ends_a_poll_that_waits,
                no_wake_of_a_thousand_is_lost,
                a_lent_buffer_returned_by_another_thread_ends_a_poll_that_waits,
                a_poll_without_a_deadline_ends_with_a_completion;
        }
    };
}

/// io_uring.
#[cfg(target_os = "linux")]
mod uring {
    type Uring = super::fixture_loopback::Loopback<super::fixture_loopback::Uring>;

    common_cases!(Uring);
    completion_cases!(Uring);
    real_cases!(Uring);

    // A system that still uses memory after the end of an engine, which only this one has; and the planted bug, which is in this engine.
    tests_for! { Uring;
        tearing_down: a_tear_down_without_time_leaks_and_does_not_free;
        planted:
            freeing_a_send_before_its_last_completion_is_caught;
    }
}

/// Readiness.
#[cfg(unix)]
mod readiness {
    type Readiness = super::fixture_loopback::Loopback<super::fixture_loopback::Readiness>;

    common_cases!(Readiness);
    real_cases!(Readiness);
}

/// Readiness by way of the `polling` crate, as on systems without epoll.
#[cfg(unix)]
mod portable_readiness {
    type Readiness = super::fixture_loopback::Loopback<super::fixture_loopback::PortableReadiness>;

    common_cases!(Readiness);
    real_cases!(Readiness);
}

/// The simulated world.
mod sim {
    type Sim = super::fixture_sim::SimFixture;

    common_cases!(Sim);
    completion_cases!(Sim);
}
