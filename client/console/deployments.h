// What the routers say about deployments: handlers that can be called, their queues and times.
#pragma once

#include "client/console/outcome.h"

namespace dray::console {

// Every deployment of every router (member "router"), or of one name. Throws Failure: kNotFound for
// a name that nobody knows, kNoCluster when no router answers.
Json fetch_deployments(Context& context, const std::string& name);

// Of the router that knows the most: several know the same ones. Throws Failure if there are none.
double replicas_of(Context& context, const std::string& handler);

// A member that is a number, else 0.
double number_of(const Json& object, const char* key);
uint64_t count_of(const Json& object, const char* key);
// The sum of all members that are numbers.
uint64_t sum_of(const Json& object);
// How many calls ended in which way.
Json ends_of(const Json& deployment);
// A member that is an object, else an empty one.
Json part_of(const Json& object, const char* key);

// "8.00 ms + 250 us/item", or "?" while nothing is known.
std::string line_text(const Json& deployment);
// Up to three of the largest as "12 max_queued, 3 infeasible".
std::string largest(const Json& counts, size_t most = 3);
// One character each for the times up to p50 '#', p95 '=', p99 '-', p999 '.', on a logarithmic
// scale from 1 us to `longest_us`.
std::string latency_bar(const Json& latency, double longest_us);

constexpr const char* kLatencyParts[] = {"total", "queue", "gather", "wire", "wait", "run"};

}  // namespace dray::console
