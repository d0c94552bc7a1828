/* Which clusters a few queries read, and softmax attention over them, read where they lie; see cluster_reading.py.
 * A run is RUN keys, each beside its value. Scores of a run go through a running softmax and its values are added
 * before the next one is looked at, so memory is read once and nothing is written but the result. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define RUN 8
#define LANES 8
/* runs that are on their way from memory while one is read */
#define AHEAD 2

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vec load(const float *from) { return *(const loose_vec *)from; }

static inline vec spread(float x) { return x - (vec){0}; }

static inline vec choose(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }

/* e^x for x <= 0 (larger ones count as 0), relative error below 3e-7; 0 below the smallest normal number */
static inline vec exponential(vec x) {
    const ivec tiny = x < spread(-87.0f);
    x = choose(tiny, spread(-87.0f), choose(x > spread(0.0f), spread(0.0f), x)) * spread(1.4426950408889634f);
    const vec shifted = x + spread(12582912.0f); /* 1.5 * 2^23: rounds to the nearest integer */
    const vec whole = shifted - spread(12582912.0f), f = x - whole;
    vec p = spread(1.535336188319500e-4f);
    p = p * f + spread(1.339887440266574e-3f);
    p = p * f + spread(9.618437357674640e-3f);
    p = p * f + spread(5.550332471162809e-2f);
    p = p * f + spread(2.402264791363012e-1f);
    p = p * f + spread(6.931472028550421e-1f);
    p = p * f + spread(1.0f);
    const ivec exponent = __builtin_convertvector(whole, ivec) << 23;
    return (vec)(((ivec)p + exponent) & ~tiny);
}

static inline void fetch(const float *run, int64_t size) {
    for (int64_t d = 0; d < size; d += 16) __builtin_prefetch(run + d);
}

static inline float sum_of(vec x) {
    const float first = (x[0] + x[4]) + (x[1] + x[5]);
    return first + ((x[2] + x[6]) + (x[3] + x[7]));
}

static inline float dot(const float *left, const float *right, int64_t dim) {
    vec first = {0}, second = {0};
    int64_t d = 0;
    for (; d + 2 * LANES <= dim; d += 2 * LANES) {
        first += load(left + d) * load(right + d);
        second += load(left + d + LANES) * load(right + d + LANES);
    }
    for (; d < dim; d += LANES) first += load(left + d) * load(right + d);
    return sum_of(first + second);
}

/* one run for one query: top and total are the running maximum and the sum of exponentials below it */
static inline void read_run(const float *run, const float *bias, const float *query, float *output, float *top,
                            float *total, int64_t key_dim, int64_t value_dim, float scale) {
    const int64_t row = key_dim + value_dim;
    float scores[RUN], highest = *top;
    for (int i = 0; i < RUN; i++) {
        scores[i] = dot(run + i * row, query, key_dim) * scale + bias[i];
        highest = scores[i] > highest ? scores[i] : highest;
    }
    if (highest == -INFINITY) return;
    if (highest > *top) {
        const float shrink = expf(*top - highest);
        *total *= shrink;
        for (int64_t d = 0; d < value_dim; d++) output[d] *= shrink;
        *top = highest;
    }
    const vec weights = exponential(load(scores) - spread(highest));
    *total += sum_of(weights);
    for (int64_t d = 0; d < value_dim; d += LANES) {
        vec sum = load(output + d);
        for (int i = 0; i < RUN; i++) sum += load(run + i * row + key_dim + d) * weights[i];
        *(loose_vec *)(output + d) = sum;
    }
}

/* query [units, rows, key_dim], keep [units, clusters], first and runs [kv_heads, clusters], table [*, RUN * (key_dim +
 * value_dim)], bias [*, RUN]; output [units, rows, value_dim] and lse [units, rows] of units begin to end - 1; 1 where memory is short */
int farspan_read_clusters(const float *query, const uint8_t *keep, const int64_t *first, const int64_t *runs,
                           const float *table, const float *bias, float *output, float *lse, int64_t begin, int64_t end,
                           int64_t group, int64_t rows, int64_t clusters, int64_t key_dim, int64_t value_dim,
                           float scale) {
    const int64_t size = RUN * (key_dim + value_dim);
    int64_t most = 0;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t here = 0;
        for (int64_t k = 0; k < clusters; k++) here += keep[unit * clusters + k] ? runs[unit / group * clusters + k] : 0;
        most = here > most ? here : most;
    }
    int64_t *wanted = malloc(sizeof(int64_t) * (size_t)(most + 1));
    if (!wanted) return 1;
    for (int64_t unit = begin; unit < end; unit++) {
        float *out = output + unit * rows * value_dim, *norm = lse + unit * rows;
        float top[rows], total[rows];
        for (int64_t r = 0; r < rows; r++) top[r] = -INFINITY, total[r] = 0.0f;
        for (int64_t i = 0; i < rows * value_dim; i++) out[i] = 0.0f;
        const uint8_t *kept = keep + unit * clusters;
        const int64_t *starts = first + unit / group * clusters, *counts = runs + unit / group * clusters;
        int64_t number = 0;
        for (int64_t k = 0; k < clusters; k++)
            for (int64_t run = starts[k]; kept[k] && run < starts[k] + counts[k]; run++) wanted[number++] = run;
        for (int64_t i = 0; i < AHEAD && i < number; i++) fetch(table + wanted[i] * size, size);
        for (int64_t i = 0; i < number; i++) {
            if (i + AHEAD < number) fetch(table + wanted[i + AHEAD] * size, size);
            const int64_t run = wanted[i];
            for (int64_t r = 0; r < rows; r++)
                read_run(table + run * size, bias + run * RUN, query + (unit * rows + r) * key_dim,
                         out + r * value_dim, top + r, total + r, key_dim, value_dim, scale);
        }
        for (int64_t r = 0; r < rows; r++) {
            const float share = total[r] > 0.0f ? 1.0f / total[r] : 0.0f;
            for (int64_t d = 0; d < value_dim; d++) out[r * value_dim + d] *= share;
            norm[r] = total[r] > 0.0f ? top[r] + logf(total[r]) : -INFINITY;
        }
    }
    free(wanted);
    return 0;
}

/* Scores and choice of clusters by their centroids: query [units, rows, dim], centroids [kv_heads, clusters, dim],
 * log_counts [kv_heads, clusters] (-inf for empty ones); scores and keep [units, clusters]. A cluster is kept if its
 * score, the mean over rows of the estimated probability of one key, exceeds the threshold, or is the largest. */
int farspan_look_up(const float *query, const float *centroids, const float *log_counts, float *scores, uint8_t *keep,
                    int64_t begin, int64_t end, int64_t group, int64_t rows, int64_t clusters, int64_t dim,
                    float scale, float threshold) {
    const int64_t padded = (clusters + LANES - 1) / LANES * LANES;
    float *logits = malloc(sizeof(float) * (size_t)(2 * padded));
    if (!logits) return 1;
    float *mean = logits + padded;
    for (int64_t unit = begin; unit < end; unit++) {
        const float *centre = centroids + unit / group * clusters * dim;
        const float *sizes = log_counts + unit / group * clusters;
        for (int64_t k = 0; k < padded; k++) mean[k] = 0.0f, logits[k] = -INFINITY;
        for (int64_t r = 0; r < rows; r++) {
            const float *asked = query + (unit * rows + r) * dim;
            float top = -INFINITY;
            for (int64_t k = 0; k < clusters; k++) {
                logits[k] = dot(centre + k * dim, asked, dim) * scale;
                const float weighed = logits[k] + sizes[k];
                top = weighed > top ? weighed : top;
            }
            vec total = {0};
            for (int64_t k = 0; k < padded; k += LANES) {
                vec size = spread(-INFINITY);
                for (int64_t i = 0; i < LANES && k + i < clusters; i++) size[i] = sizes[k + i];
                total += exponential(load(logits + k) + size - spread(top));
            }
            const float norm = top + logf(sum_of(total));
            /* a single key's estimate is below that of all keys together, so it is at most 1 */
            for (int64_t k = 0; k < padded; k += LANES) {
                const vec found = exponential(load(logits + k) - spread(norm));
                *(loose_vec *)(mean + k) = load(mean + k) + found;
            }
        }
        int64_t best = 0;
        for (int64_t k = 0; k < clusters; k++) {
            const float score = sizes[k] == -INFINITY ? 0.0f : mean[k] / (float)rows;
            scores[unit * clusters + k] = score;
            keep[unit * clusters + k] = score > threshold || (threshold == 0.0f && sizes[k] != -INFINITY);
            best = score > scores[unit * clusters + best] ? k : best;
        }
        keep[unit * clusters + best] = sizes[best] != -INFINITY;
    }
    free(logits);
    return 0;
}
