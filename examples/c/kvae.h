/* Texts from a kvae bundle, with the C interface of onnxruntime. docs/graphs.md describes the graphs.
 *
 * Every function ends the program with one line on standard error if something is wrong. */

#ifndef KVAE_H
#define KVAE_H

#include <stddef.h>
#include <stdint.h>

enum { PAD, START, END, UNKNOWN, SPECIALS };
enum { CHUNK = 128 }; /* texts of one call: memory grows with the batch */

typedef struct kvae kvae;

/* A bundle, whose graphs are loaded on first use. */
kvae *kvae_open(const char *folder);
void kvae_close(kvae *model);

int kvae_length(const kvae *model);      /* T, the positions of a text, its end mark included */
int kvae_latent_size(const kvae *model); /* d, the numbers of a code */

/* Sampling options. temperature 0 is greedy, top_k 0 and top_p 1 are off. */
typedef struct {
    float temperature, top_p;
    int64_t top_k, min_length, max_length;
} kvae_choices;
kvae_choices kvae_defaults(const kvae *model);

/* The texts of `count` rows of a seed, from `first_row`; `take` gets each. Texts are UTF-8. */
void kvae_sample(kvae *model, int64_t count, int64_t seed, int64_t first_row, kvae_choices choices,
                 void (*take)(const char *text));

/* The text of a row, piece by piece: the same one, by the graphs prior, expand and step. */
void kvae_stream(kvae *model, int64_t seed, int64_t row, kvae_choices choices,
                 void (*take)(const char *piece));

/* A bound on -log p(text) in nats for the code of row 0 of `seed`, and its parts. */
typedef struct {
    double bound, reconstruction, kl, bits_per_character;
} kvae_score;
void kvae_score_texts(kvae *model, const char *const *texts, size_t count, int64_t seed,
                      kvae_score *scores);

/* The posterior means (count, d) of texts. */
void kvae_encode(kvae *model, const char *const *texts, size_t count, float *codes);

#endif
