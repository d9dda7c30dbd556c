#include "team.h"

enum { SPINS = 30000 }; /* looks before going to sleep, some tens of microseconds */

#define LOAD(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
#define STORE(at, value) __atomic_store_n(at, value, __ATOMIC_SEQ_CST)
#define ADD(at, value) __atomic_add_fetch(at, value, __ATOMIC_SEQ_CST)

#if defined(__wasm__)
static void sleep_while(uint32_t *at, uint32_t value) {
  __builtin_wasm_memory_atomic_wait32((int *)at, (int)value, -1);
}
static void wake_all(uint32_t *at) { __builtin_wasm_memory_atomic_notify((int *)at, 1u << 16); }
#else
#include <sched.h>
static void sleep_while(uint32_t *at, uint32_t value) {
  while (LOAD(at) == value) sched_yield();
}
static void wake_all(uint32_t *at) { (void)at; }
#endif

/* Take a piece of the job that is on, and do it; false where there is none to take. */
static int take(Team *team, uint32_t thread) {
  uint64_t ticket = LOAD(&team->ticket);
  do {
    if (!(uint32_t)ticket) return 0;
  } while (!__atomic_compare_exchange_n(&team->ticket, &ticket, ticket - 1, 1, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST));
  /* the leader changes nothing of the job before this piece is done */
  uint32_t pieces = team->pieces, first = (pieces - (uint32_t)ticket) * team->grain;
  uint32_t end = first + team->grain < team->items ? first + team->grain : team->items;
  team->work(team->context, first, end, thread);
  if (ADD(&team->done, 1) == pieces && LOAD(&team->leader_sleeps)) wake_all(&team->done);
  return 1;
}

static void hand_out(Team *team) {
  uint64_t number = (LOAD(&team->ticket) >> 32) + 1;
  STORE(&team->done, 0);
  STORE(&team->ticket, number << 32 | team->pieces);
  ADD(&team->epoch, 1);
  if (LOAD(&team->sleeping)) wake_all(&team->epoch);
}

static void wait_for_others(Team *team) {
  for (int i = 0; i < SPINS; i++)
    if (LOAD(&team->done) == team->pieces) return;
  STORE(&team->leader_sleeps, 1);
  for (uint32_t done; (done = LOAD(&team->done)) != team->pieces;) sleep_while(&team->done, done);
  STORE(&team->leader_sleeps, 0);
}

void team_run(Team *team, Work work, void *context, uint32_t items, uint32_t grain) {
  if (team->threads == 1 || items <= grain) {
    work(context, 0, items, 0);
    return;
  }
  team->work = work, team->context = context;
  team->items = items, team->grain = grain, team->pieces = (items + grain - 1) / grain;
  hand_out(team);
  while (take(team, 0)) {}
  wait_for_others(team);
}

/* Returns when there is a job or the team is stopped. */
static void wait_for_job(Team *team) {
  for (int i = 0; i < SPINS; i++)
    if ((uint32_t)LOAD(&team->ticket) || LOAD(&team->stopped)) return;
  ADD(&team->sleeping, 1);
  uint32_t epoch = LOAD(&team->epoch); /* read before the last look: a later job changes it */
  if (!(uint32_t)LOAD(&team->ticket) && !LOAD(&team->stopped)) sleep_while(&team->epoch, epoch);
  ADD(&team->sleeping, -1);
}

void team_help(Team *team, uint32_t thread) {
  while (!LOAD(&team->stopped)) {
    if (!take(team, thread)) wait_for_job(team);
  }
}

void team_stop(Team *team) {
  STORE(&team->stopped, 1);
  ADD(&team->epoch, 1);
  wake_all(&team->epoch);
}
