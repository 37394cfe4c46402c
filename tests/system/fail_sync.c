// LD_PRELOAD shim: the next fdatasync of dray-broker fails with EIO when the file $FAIL_SYNC exists;
// the file is removed, so it happens once.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char* program_invocation_short_name;

int fdatasync(int fd) {
  const char* trigger = getenv("FAIL_SYNC");
  if (trigger != NULL && strcmp(program_invocation_short_name, "dray-broker") == 0 &&
      unlink(trigger) == 0) {
    errno = EIO;
    return -1;
  }
  return (int)syscall(SYS_fdatasync, fd);
}
