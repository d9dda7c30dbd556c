/* A team of threads that share the work of a step.

   One of them, the first, leads: it hands out a job in pieces, takes pieces itself, and goes on when
   all are done. The others only ever help, so that one of them which has no core at the moment
   holds up nothing but the piece that it may have in its hands. Whoever waits spins a little and
   then sleeps. */
#pragma once
#include <stdint.h>

typedef void (*Work)(void *context, uint32_t first, uint32_t end, uint32_t thread);

typedef struct {
  uint64_t ticket; /* the job's number, and in the lower half how many pieces nobody has taken */
  uint32_t threads;
  uint32_t done;           /* pieces of the job */
  uint32_t epoch;          /* counts jobs, for helpers to sleep on */
  uint32_t sleeping;       /* helpers */
  uint32_t leader_sleeps;
  uint32_t stopped;
  Work work;
  void *context;
  uint32_t items, grain, pieces;
} Team;

/* Do work on items 0 … items - 1, some grain of them in a piece. Of the leader. */
void team_run(Team *team, Work work, void *context, uint32_t items, uint32_t grain);
/* Help until the team is stopped. Of the others; thread: 1 … threads - 1. */
void team_help(Team *team, uint32_t thread);
void team_stop(Team *team);
