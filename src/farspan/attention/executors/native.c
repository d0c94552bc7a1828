/* Exact softmax attention over a block plan in float32, for one processor core; see native.py for the meaning of all
 * tables. A task is one block of queries of one unit. For each key block it reads, scores of a few rows at a time are
 * computed, put through a running softmax and multiplied with the values, all within the core's caches. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE_ROWS 6
#define TILE_VECTORS 4
#elif defined(__AVX2__)
#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#else
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECTORS 4
#endif
/* query rows whose scores against one key block stay in the first-level cache */
#define STRIP 24
/* single keys lie anywhere: they are asked for this many keys before they are needed */
#define AHEAD 8

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t loose_ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    const float *query, *rows, *key, *value; /* rows: keys as given, key: the same turned block by block */
    float *output, *lse;
    const int32_t *full_num, *full_idx, *partial_num, *partial_idx, *positions;
    const int64_t *col_ptr;
    const int32_t *col_idx;
    const int32_t *order;
    int64_t q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row;
    int64_t q_len, kv_len, q_offset, n_q, n_k, padded_len, longest_full, longest_partial;
    int64_t batch, heads, kv_heads, units, group, selections, orders;
    int64_t key_dim, value_dim, block_q, block_k;
    float scale;
} Problem;

static inline vec load(const float *from) { return *(const loose_vec *)from; }
static inline void store(float *to, vec x) { *(loose_vec *)to = x; }
static inline vec spread(float x) { return x - (vec){0}; }
static inline vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline vec larger(vec x, vec y) { return choose(x > y, x, y); }

/* 2^x for x <= 0, relative error below 2e-7; 0 below the smallest normal number */
static inline vec power_of_two(vec x) {
    const ivec tiny = x < spread(-126.0f);
    x = choose(tiny, spread(-126.0f), x);
    const vec shifted = x + spread(12582912.0f); /* 1.5 * 2^23: rounds to the nearest integer */
    const vec whole = shifted - spread(12582912.0f);
    const vec f = x - whole;
    vec p = spread(1.535336188319500e-4f);
    p = p * f + spread(1.339887440266574e-3f);
    p = p * f + spread(9.618437357674640e-3f);
    p = p * f + spread(5.550332471162809e-2f);
    p = p * f + spread(2.402264791363012e-1f);
    p = p * f + spread(6.931472028550421e-1f);
    p = p * f + spread(1.0f);
    const ivec exponent = __builtin_convertvector(whole, ivec) << 23;
    return choose(tiny, spread(0.0f), (vec)((ivec)p + exponent));
}

static inline float sum_of(vec x) {
    float total = 0.0f;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

static inline float max_of(vec x) {
    float top = x[0];
    for (int i = 1; i < LANES; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* c[rows, vectors * LANES] (+)= a[rows, depth] b[depth, vectors * LANES] */
static inline __attribute__((always_inline)) void tile(
    const int rows, const int vectors, const float *restrict a, int64_t a_row, const float *restrict b, int64_t b_row,
    float *restrict c, int64_t c_row, int64_t depth, const int fresh) {
    vec acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) acc[r][n] = fresh ? spread(0.0f) : load(c + r * c_row + n * LANES);
    for (int64_t d = 0; d < depth; d++) {
        vec right[TILE_VECTORS];
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) right[n] = load(b + d * b_row + n * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vec left = spread(a[r * a_row + d]);
#pragma GCC unroll 8
            for (int n = 0; n < vectors; n++) acc[r][n] += left * right[n];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int n = 0; n < vectors; n++) store(c + r * c_row + n * LANES, acc[r][n]);
}

static void product(const float *a, int64_t a_row, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
                    int64_t cols, int64_t depth, int fresh) {
    int64_t n = 0;
#define COLUMNS_OF(VECTORS)                                                                                         \
    for (; n + VECTORS * LANES <= cols; n += VECTORS * LANES) {                                                     \
        int64_t r = 0;                                                                                              \
        if (fresh) {                                                                                                \
            for (; r + TILE_ROWS <= rows; r += TILE_ROWS)                                                           \
                tile(TILE_ROWS, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 1);   \
            for (; r + 2 <= rows; r += 2)                                                                           \
                tile(2, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 1);           \
            for (; r < rows; r++)                                                                                   \
                tile(1, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 1);           \
        } else {                                                                                                    \
            for (; r + TILE_ROWS <= rows; r += TILE_ROWS)                                                           \
                tile(TILE_ROWS, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 0);   \
            for (; r + 2 <= rows; r += 2)                                                                           \
                tile(2, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 0);           \
            for (; r < rows; r++)                                                                                   \
                tile(1, VECTORS, a + r * a_row, a_row, b + n, b_row, c + r * c_row + n, c_row, depth, 0);           \
        }                                                                                                           \
    }
    COLUMNS_OF(TILE_VECTORS)
    COLUMNS_OF(1)
}

/* What one head of a task has gathered so far: acc [block_q, wide], peak [block_q], sums [block_q, LANES] */
typedef struct {
    float *acc, *peak, *sums, *scores;
} Running;

/* One key block of `width` keys (`real` of them there): turned is [key_dim, width], value rows lie v_row apart.
 * With positions, row i reads key j where positions[j] <= first + i. */
static void absorb(const Problem *p, const Running *run, const float *query, int64_t rows, const float *turned,
                   const float *value, int64_t v_row, int64_t width, int64_t real, const int32_t *positions,
                   int64_t first) {
    const int64_t wide = p->value_dim;
    const vec scale = spread(p->scale), none = spread(-INFINITY);
    for (int64_t start = 0; start < rows; start += STRIP) {
        const int64_t count = rows - start < STRIP ? rows - start : STRIP;
        product(query + start * p->q_row, p->q_row, turned, width, run->scores, width, count, width, p->key_dim, 1);
        for (int64_t i = 0; i < count; i++) {
            float *scores = run->scores + i * width, *acc = run->acc + (start + i) * wide;
            float *sums = run->sums + (start + i) * LANES, *peak = run->peak + start + i;
            vec top = none;
            if (positions) {
                const ivec limit = (int32_t)(first + start + i) - (ivec){0};
                for (int64_t j = 0; j < width; j += LANES) {
                    const ivec allowed = *(const loose_ivec *)(positions + j) <= limit;
                    const vec x = choose(allowed, load(scores + j) * scale, none);
                    store(scores + j, x);
                    top = larger(x, top);
                }
            } else {
                for (int64_t j = 0; j < width; j += LANES) {
                    const vec x = load(scores + j) * scale;
                    store(scores + j, x);
                    top = larger(x, top);
                }
            }
            const float highest = max_of(top);
            if (highest > *peak) {
                /* the first peak is -inf, and there is nothing to shrink */
                const vec shrink = spread(exp2f(*peak - highest));
                for (int64_t e = 0; e < wide; e += LANES) store(acc + e, load(acc + e) * shrink);
                store(sums, load(sums) * shrink);
                *peak = highest;
            }
            const vec base = spread(*peak == -INFINITY ? 0.0f : *peak);
            vec total = load(sums);
            for (int64_t j = 0; j < width; j += LANES) {
                const vec weight = power_of_two(load(scores + j) - base);
                store(scores + j, weight);
                total += weight;
            }
            store(sums, total);
        }
        product(run->scores, width, value, v_row, run->acc + start * wide, wide, count, wide, real, 0);
    }
}

/* Keys [kv_len, key_dim] of one head as blocks [n_k, key_dim, block_k], zeros after the last. */
void farspan_turn(const float *key, int64_t k_row, float *turned, int64_t kv_len, int64_t key_dim, int64_t block_k) {
    for (int64_t begin = 0; begin < kv_len; begin += block_k, turned += key_dim * block_k) {
        const int64_t real = kv_len - begin < block_k ? kv_len - begin : block_k;
        for (int64_t d = 0; d < key_dim; d++) {
            for (int64_t j = 0; j < real; j++) turned[d * block_k + j] = key[(begin + j) * k_row + d];
            for (int64_t j = real; j < block_k; j++) turned[d * block_k + j] = 0.0f;
        }
    }
}

static void attend_task(const Problem *p, int64_t task, const Running *run, float *some_keys, float *some_values,
                       int32_t *some_positions) {
    const int64_t block = task % p->n_q, unit = task / p->n_q % p->units, row = task / p->n_q / p->units;
    const int64_t line = (row * p->selections + unit * p->selections / p->units) * p->n_q + block;
    const int64_t kv_head = unit * p->kv_heads / p->units, wide = p->value_dim;
    const int64_t begin = block * p->block_q;
    const int64_t rows = p->q_len - begin < p->block_q ? p->q_len - begin : p->block_q;
    const float *keys = p->key + (row * p->kv_heads + kv_head) * p->n_k * p->key_dim * p->block_k;
    const float *rows_of_keys = p->rows + row * p->k_batch + kv_head * p->k_head;
    const float *values = p->value + row * p->v_batch + kv_head * p->v_head;
    const int32_t *positions = p->positions + (row * p->orders + unit * p->orders / p->units) * p->padded_len;
    const int64_t single = p->col_ptr ? p->col_ptr[line + 1] - p->col_ptr[line] : 0;
    memset(run->acc, 0, p->group * p->block_q * wide * sizeof(float));
    memset(run->sums, 0, p->group * p->block_q * LANES * sizeof(float));
    for (int64_t i = 0; i < p->group * p->block_q; i++) run->peak[i] = -INFINITY;

    const int64_t full = p->full_num[line], partial = p->partial_num[line];
    const int64_t chunks = (single + p->block_k - 1) / p->block_k;
    for (int64_t step = 0; step < full + partial + chunks; step++) {
        const float *turned, *some;
        const int32_t *test = NULL;
        int64_t v_row = p->v_row, real = p->block_k;
        if (step < full + partial) {
            const int64_t at = step < full ? p->full_idx[line * p->longest_full + step]
                                           : p->partial_idx[line * p->longest_partial + step - full];
            turned = keys + at * p->key_dim * p->block_k;
            some = values + at * p->block_k * p->v_row;
            if (step >= full) test = positions + at * p->block_k;
            if (p->kv_len - at * p->block_k < real) real = p->kv_len - at * p->block_k;
        } else {
            const int64_t from = (step - full - partial) * p->block_k;
            const int32_t *columns = p->col_idx + p->col_ptr[line] + from;
            real = single - from < p->block_k ? single - from : p->block_k;
            for (int64_t j = 0; j < p->block_k; j++) {
                const int64_t at = j < real ? columns[j] : 0, soon = j + AHEAD < real ? columns[j + AHEAD] : 0;
                for (int64_t d = 0; d < p->key_dim; d += 16) __builtin_prefetch(rows_of_keys + soon * p->k_row + d);
                for (int64_t e = 0; e < p->value_dim; e += 16) __builtin_prefetch(values + soon * p->v_row + e);
                const float *source = rows_of_keys + at * p->k_row;
                some_positions[j] = j < real ? positions[at] : INT32_MAX;
                for (int64_t d = 0; d < p->key_dim; d++) some_keys[d * p->block_k + j] = source[d];
                memcpy(some_values + j * p->value_dim, values + at * p->v_row, p->value_dim * sizeof(float));
            }
            turned = some_keys, some = some_values, test = some_positions, v_row = p->value_dim;
        }
        for (int64_t g = 0; g < p->group; g++) {
            const Running part = {run->acc + g * p->block_q * wide, run->peak + g * p->block_q,
                                  run->sums + g * p->block_q * LANES, run->scores};
            const float *query = p->query + row * p->q_batch + (unit * p->group + g) * p->q_head + begin * p->q_row;
            absorb(p, &part, query, rows, turned, some, v_row, p->block_k, real, test, p->q_offset + begin);
        }
    }
    for (int64_t g = 0; g < p->group; g++) {
        for (int64_t i = 0; i < rows; i++) {
            const int64_t at = g * p->block_q + i;
            const int64_t place = (row * p->heads + unit * p->group + g) * p->q_len + begin + i;
            const float total = sum_of(load(run->sums + at * LANES)), share = total > 0.0f ? 1.0f / total : 0.0f;
            for (int64_t e = 0; e < p->value_dim; e++)
                p->output[place * p->value_dim + e] = run->acc[at * wide + e] * share;
            p->lse[place] = total > 0.0f ? (run->peak[at] + log2f(total)) * 0.6931471805599453f : -INFINITY;
        }
    }
}

/* Every `stride`-th of the tasks in `order`, from `first`. Returns 0, or 1 without memory. value_dim and block_k are
 * multiples of 16. */
int farspan_attend(const Problem *p, int64_t first, int64_t stride, int64_t tasks) {
    const int64_t rows = p->group * p->block_q;
    const int64_t sizes[] = {rows * p->value_dim,        rows,
                             rows * LANES,               STRIP * p->block_k,
                             p->key_dim * p->block_k,    p->block_k * p->value_dim,
                             p->block_k};
    void *buffers[7] = {0};
    int failed = 0;
    for (int i = 0; i < 7 && !failed; i++) failed = posix_memalign(&buffers[i], 64, sizes[i] * 4) != 0;
    if (!failed) {
        const Running run = {buffers[0], buffers[1], buffers[2], buffers[3]};
        for (int64_t i = first; i < tasks; i += stride)
            attend_task(p, p->order[i], &run, buffers[4], buffers[5], buffers[6]);
    }
    for (int i = 0; i < 7; i++) free(buffers[i]);
    return failed;
}
