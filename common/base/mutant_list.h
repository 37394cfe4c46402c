// The list of planted bugs: name, what is wrong with it. tests/sim/README.md tells how to add one.
#pragma once

#define DRAY_MUTANT_LIST(X)                                                                     \
  X(ack_before_sync, "SUBMITTED leaves before the task is durable")                             \
  X(dispatch_before_sync, "DISPATCH leaves before the lease is durable")                        \
  X(results_acked_before_sync, "RESULTS_ACK leaves before the end is durable")                  \
  X(ready_before_sync, "READY leaves before the end is durable")                                \
  X(cancel_told_early, "the answer to CANCEL leaves before it is durable")                      \
  X(result_token_ignored, "a result is taken with any token, from anybody")                     \
  X(lost_not_requeued, "a lost lease is not queued again")                                      \
  X(lost_not_counted, "a lost lease does not count against max_lost")                           \
  X(one_failure_more, "a task may fail once more than max_failures")                            \
  X(backoff_without_cap, "the back-off goes beyond its cap")                                    \
  X(due_ignored, "delay and back-off are not waited for")                                       \
  X(expiry_ignored, "tasks start after their expiry")                                           \
  X(expiry_timer_twice, "each retry sets another expiry timer, each ends it (a bug we had)")    \
  X(pause_ignored, "tasks of a paused queue start")                                             \
  X(changed_outside_apply, "state is changed besides the journal")                              \
  X(ack_one_more, "RESULTS_ACK covers a result that never came")                                \
  X(lease_keeps_devices, "a lease that ends gives no devices back")                             \
  X(capacity_ignored, "the broker does not hear CAPACITY")                                      \
  X(loss_not_reported, "a task whose GPU was lost goes on")                                     \
  X(grant_kept, "a worker gives nothing back when a task ends")                                 \
  X(revoked_gives_devices, "a revoked task gives its GPU back while it still runs")             \
  X(no_resume_window, "leases are lost at once when the broker restarts")                       \
  X(reset_loses_leases, "leases are lost at once when a connection breaks")                     \
  X(sent_no_survives, "positions in the old session are used in the new one")                   \
  X(have_without_received, "what is still on its way counts as lost")                           \
  X(ends_forgotten, "ids of ended tasks are not remembered")                                    \
  X(floor_not_checked, "ids older than the history are accepted")                               \
  X(floor_not_written, "the floor of known ids is not written to the journal")                  \
  X(floor_by_own_clock, "the floor stays below ids from faster clocks (a bug we had)")          \
  X(settings_not_rewritten, "paused queues go with the records that are released")              \
  X(carry_without_attempt, "carrying a task forward drops its attempts")                        \
  X(carry_without_token, "carrying a task forward drops its token")                             \
  X(released_too_early, "journal records are released that live tasks need")                    \
  X(credit_ignores_held, "a worker grants received + k whatever it holds")                      \
  X(credit_off_by_one, "one more is sent than was granted")                                     \
  X(old_hello_accepted, "a late HELLO of an old connection takes the peer over")                \
  X(stop_not_given_back, "after being stopped a process declares the others dead")              \
  X(broker_stop_not_given_back, "after being stopped the broker takes absent workers for lost") \
  X(silence_never_ends, "a silent peer is never given up")                                      \
  X(hole_accepted, "the aggregator takes a record behind a hole")                               \
  X(repeat_accepted, "the aggregator takes a record again")                                     \
  X(confirms_one_more, "the aggregator confirms one record too many")                           \
  X(full_disk_forgotten, "the aggregator forgets what did not fit on its disk")                 \
  X(results_dropped_at_close, "a worker drops its results when the connection breaks")          \
  X(results_not_repeated, "a worker does not send its results again in a new session")          \
  X(have_without_queue, "HAVE does not list what waits at the worker")                          \
  X(late_dispatch_taken, "a worker takes what it called lost before")                           \
  X(client_never_repeats, "a client does not repeat a request")                                 \
  X(unavailable_means_refused, "`unavailable` counts as: nothing was done")                     \
  X(last_refusal_counts, "a refusal speaks for earlier sendings, too (a bug we had)")           \
  X(full_queue_ends_others, "a full client queue ends tasks of other submits (a bug we had)")   \
  X(client_tells_twice, "a client tells a result twice")                                        \
  X(client_trusts_pushes, "a client does not WAIT for what was not pushed")                     \
  X(waits_lost_with_session, "a client forgets its WAITs with the session")                     \
  X(call_repeated_without_leave, "a client repeats calls that are not idempotent")              \
  X(call_refusal_counts, "a refused repeat of a call speaks for its first sending, too")        \
  X(drained_not_heard, "calls that a leaving router did not take count as lost with it")        \
  X(lost_run_forgotten, "a call that ran at a lost worker ends as expired or rejected")         \
  X(router_leaks_credit, "a refused request stays in flight at the router")                     \
  X(admits_the_infeasible, "calls are taken that can not be done in time")                      \
  X(calls_outlive_client, "calls of a client that left stay open at the router")                \
  X(nobody_is_stopped, "workers are not told that nobody waits for a call")                     \
  X(retries_anything, "calls that are not idempotent are executed again")                       \
  X(lost_calls_forgotten, "calls at a lost worker do not end before their deadline")            \
  X(credit_not_mapped, "credit for parts goes to the worker under the client's number")         \
  X(runs_after_drain, "RUN is sent to a worker that was told nothing more comes")               \
  X(batch_never_closed, "a batch that failed stays ongoing at the router")                      \
  X(batch_too_large, "a batch has one item more than its handler takes")                        \
  X(max_ongoing_ignored, "more batches run at once than the handler allows")                    \
  X(late_call_started, "a worker starts calls after their deadline")                            \
  X(call_slot_not_freed, "the last DONE of a batch does not free its slot")                     \
  X(stop_not_passed_on, "calls that nobody waits for are not asked to stop")                    \
  X(orphans_run_on, "calls of a router that is gone are not asked to stop")                     \
  X(drain_answer_not_awaited, "a worker leaves while batches are on their way to it")           \
  X(call_credit_ignores_held, "a worker grants batches whatever it holds")                      \
  X(client_credit_ignores_open, "a router grants calls whatever is open")                       \
  X(client_bytes_ignored, "calls of a client are taken beyond client_bytes")                    \
  X(call_bytes_ignored, "calls are taken beyond call_bytes")                                    \
  X(max_queued_ignored, "calls are taken beyond max_queued")                                    \
  X(taken_while_leaving, "a leaving router takes new calls")                                    \
  X(drained_told_early, "a leaving router says that it drained while calls are open")           \
  X(keys_mixed, "calls of different models are one queue")                                      \
  X(late_done_taken, "the end of a call that has ended is taken")                               \
  X(parts_repeated, "a call is executed again after parts of its reply were told")              \
  X(retries_for_ever, "a lost call is sent to any number of replicas")                          \
  X(retry_budget_ignored, "lost calls are retried beyond the budget")                           \
  X(hedges_anything, "calls that are not idempotent are hedged")                                \
  X(hedge_budget_ignored, "calls are hedged beyond the budget")                                 \
  X(worker_ongoing_ignored, "a worker starts more batches than max_ongoing")                    \
  X(worker_leaves_early, "a worker leaves while calls run")                                     \
  X(shared_place_taken, "a batch of calls starts though tasks have the place")                  \
  X(piece_beside_calls, "tasks start though calls have the place")                              \
  X(share_end_untold, "routers do not hear that tasks are no longer in the way")                \
  X(repeated_run_taken, "a worker takes a RUN that came before")                                \
  X(parted_call_repeated, "a client repeats a call after parts of its reply were told")         \
  X(repeats_without_budget, "a client repeats calls beyond its budget")                         \
  X(lost_session_silent, "calls of a lost session wait for their deadline")                     \
  X(grants_too_much, "a client grants parts beyond the window")                                 \
  X(unreachable_at_once, "what a peer said just before it left is not read")                    \
  X(handlers_not_told, "a worker does not tell the broker which handlers it has now")           \
  X(handlers_not_heard, "the broker goes on with the handlers of ATTACH")                       \
  X(offer_not_repeated, "a worker does not tell routers which handlers it has now")
