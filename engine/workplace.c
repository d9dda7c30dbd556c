/* A product's rows, shared among the team. */
#include "workplace.h"

enum { PIECES = 4, FEWEST_ROWS = 16 }; /* of a product: pieces for each thread, rows in a piece */

typedef struct {
  const Workplace *work;
  const Matrix *matrix;
  float *out;
  size_t stride;
  int add;
  uint32_t tokens;
} Product;

static void rows_work(void *context, uint32_t first, uint32_t end, uint32_t thread) {
  const Product *p = context;
  const Workplace *w = p->work;
  multiply(p->matrix, w->rounded, p->tokens, first, end, p->out, p->stride, p->add, w->scratch[thread]);
}

void share_product(Workplace *work, const Matrix *m, uint32_t tokens, float *out, size_t stride, int add) {
  Product product = {work, m, out, stride, add, tokens};
  uint32_t grain = m->rows / (work->team.threads * PIECES);
  team_run(&work->team, rows_work, &product, m->rows, grain > FEWEST_ROWS ? grain : FEWEST_ROWS);
}
