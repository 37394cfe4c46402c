/* worker_abi.h: the stable C ABI between a worker and its plugins. Include worker.h, which includes
 * this; plain C includes this alone.
 */
#ifndef DRAY_WORKER_ABI_H_
#define DRAY_WORKER_ABI_H_

#include <stddef.h>
#include <stdint.h>

/* Rules of growth. The major number changes when an old plugin can not work any more. Otherwise a
 * struct only grows at its end; `size` says how much of it its maker knew, so a reader uses a field
 * added after major.0 only if `size` covers it. Every pointer a task carries is valid until run
 * returns. Strings are counted, not terminated. The plugin must not let an exception out.
 */
#define DRAY_ABI_MAJOR 1
#define DRAY_ABI_MINOR 2

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dray_str {
  const char* data;
  size_t size;
} dray_str;

/* Kinds of failure (set_error). */
#define DRAY_FAIL 1 /* may be tried again */
#define DRAY_FAIL_FINAL 2 /* never try again */

/* Log levels. */
#define DRAY_LOG_DEBUG 0
#define DRAY_LOG_INFO 1
#define DRAY_LOG_WARN 2
#define DRAY_LOG_ERROR 3

/* Flags of a handler. */
#define DRAY_HANDLER_TEST_ONLY 1u /* loaded only by a worker that allows test handlers */
#define DRAY_HANDLER_IDEMPOTENT 2u /* (1.1) may be executed more than once */
#define DRAY_HANDLER_STREAMS 4u /* (1.1) answers calls in parts (send_part) */

#define DRAY_NO_DEADLINE INT64_MAX

struct dray_task;
struct dray_worker;
struct dray_handler;

/* What the worker offers. set_result, result_buffer and set_error: only from the thread that called
 * run, the last call wins; a run that calls none of them succeeds with an empty result. progress
 * and log: any thread, while run runs. All copy what they are given. */
typedef struct dray_host {
  size_t size;
  void (*set_result)(const struct dray_task* task, const char* data, size_t size);
  /* Zeroed memory of the result itself, to fill in before run returns; NULL if too large. */
  char* (*result_buffer)(const struct dray_task* task, size_t size);
  void (*set_error)(const struct dray_task* task, int32_t kind, const char* text, size_t size);
  void (*progress)(const struct dray_task* task, double fraction, const char* text, size_t size);
  void (*log)(const struct dray_worker* worker, int32_t level, const char* text, size_t size);
  /* (1.1) Sends a part of the result, before the rest of it is known. Only from the thread that
   * called run. Blocks while the reader is behind; not 0: nobody reads any more, stop. Where no
   * parts were asked for, they are kept and become the beginning of the result. */
  int32_t (*send_part)(const struct dray_task* task, const char* data, size_t size);
} dray_host;

/* The worker process; lives longer than any handler state. */
typedef struct dray_worker {
  size_t size;
  const dray_host* host;
  void* opaque; /* the worker's own */
  dray_str name;
  dray_str data_dir; /* where files named in payloads live; empty if not configured */
  dray_str user_config; /* (1.2) given to the deployment, as it was when this process began */
  dray_str deployment; /* (1.2) empty if the handlers belong to none */
} dray_worker;

/* One execution of one task, or of one call. */
typedef struct dray_task {
  size_t size;
  const dray_host* host;
  void* opaque; /* the worker's own */
  const dray_worker* worker;
  uint8_t id[16];
  uint64_t token_epoch; /* (epoch, seq) grows with every lease of every task: a fencing token */
  uint64_t token_seq;
  uint32_t attempt; /* from 1 */
  uint32_t reserved;
  int64_t deadline_ns; /* CLOCK_MONOTONIC, or DRAY_NO_DEADLINE */
  const unsigned char* cancelled; /* never NULL; read atomically; not 0: stop soon */
  dray_str handler;
  dray_str payload;
  dray_str user_header;
  dray_str model; /* (1.1) which model the call is for; may be empty */
  uint32_t is_call; /* (1.1) not 0: a call; id and token mean nothing */
  uint32_t items; /* (1.1) how much of a batch it fills; at least 1 */
} dray_task;

typedef struct dray_handler {
  size_t size;
  dray_str name; /* 1..128 of A-Z a-z 0-9 . _ - / */
  uint32_t flags;
  uint32_t max_concurrency; /* runs at the same time in one worker; 0: no limit */
  void* user; /* the plugin's own */
  /* Called once per worker, before the first run. May be NULL. Returns 0, or not 0 with a line of
   * text in error (terminated, at most error_size bytes): then the worker refuses the plugin. */
  int32_t (*init)(const struct dray_handler* self, const dray_worker* worker, void** state,
                  char* error, size_t error_size);
  void (*fini)(const struct dray_handler* self, void* state); /* may be NULL */
  /* Up to max_concurrency threads at the same time, with the same state. May be NULL (1.1) if there
   * is a run_batch: then a task is a batch of one. */
  void (*run)(const struct dray_handler* self, void* state, const dray_task* task);
  /* (1.1) Calls that were gathered, at most max_batch_size items and all for the same model; each
   * is answered through its own callbacks. May be NULL. */
  void (*run_batch)(const struct dray_handler* self, void* state, const dray_task* const* tasks,
                    size_t count);
  /* (1.1) How the handler takes calls. */
  uint32_t max_batch_size; /* items in one batch, at most 4096; above 1 only with run_batch */
  uint32_t max_ongoing; /* batches at the same time in one worker; 0: no limit of its own */
  uint64_t max_batch_bytes; /* payloads of one batch; 0: what fits in a message */
  uint32_t batch_wait_us; /* wait so long for a batch to fill; 0: never wait */
  uint32_t max_models; /* models it keeps loaded; 0: it has none */
  /* (1.2) The deployment's user_config is another one now. Runs go on meanwhile. Returns 0, or not
   * 0 with a line of text as init does: it can not be used, and what was before stays. May be NULL.
   */
  int32_t (*reconfigure)(const struct dray_handler* self, void* state, dray_str user_config,
                         char* error, size_t error_size);
  /* (1.2) Asked every few seconds, while runs go on: 0, or not 0 with a line of text if it can not
   * do its work. One that does not return has its process ended. May be NULL. */
  int32_t (*health)(const struct dray_handler* self, void* state, char* error, size_t error_size);
} dray_handler;

typedef struct dray_plugin {
  size_t size;
  uint32_t abi_major;
  uint32_t abi_minor;
  const dray_handler* const* handlers;
  size_t handler_count;
} dray_plugin;

/* The one symbol a plugin exports. The table must stay valid and unchanged. */
typedef const dray_plugin* (*dray_plugin_entry)(void);
#define DRAY_PLUGIN_ENTRY "dray_plugin_v1"

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* DRAY_WORKER_ABI_H_ */
