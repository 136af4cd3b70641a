/* kvae-client BUNDLE sample|stream COUNT SEED [FIRST_ROW]
 * kvae-client BUNDLE score|encode TEXT...
 *
 * Texts are printed one a line; scores as bound, reconstruction and kl in nats, and bits per
 * character; codes as numbers with blanks between them. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvae.h"

static void print_line(const char *text) { puts(text); }

static void print_piece(const char *piece) {
    fputs(piece, stdout);
    fflush(stdout);
}

int main(int count, char **words) {
    const char *usage = "usage: kvae-client BUNDLE sample|stream COUNT SEED [FIRST_ROW]\n"
                        "       kvae-client BUNDLE score|encode TEXT...";
    if (count < 4) {
        fprintf(stderr, "%s\n", usage);
        return 2;
    }
    const char *command = words[2], *const *texts = (const char *const *)words + 3;
    size_t text_count = (size_t)count - 3;
    kvae *model = kvae_open(words[1]);
    if (!strcmp(command, "sample") || !strcmp(command, "stream")) {
        int64_t numbers[] = {0, 0, 0};
        for (size_t i = 0; i < text_count && i < 3; i++) numbers[i] = strtoll(texts[i], NULL, 10);
        kvae_choices choices = kvae_defaults(model);
        if (!strcmp(command, "sample"))
            kvae_sample(model, numbers[0], numbers[1], numbers[2], choices, print_line);
        else
            for (int64_t row = numbers[2]; row < numbers[2] + numbers[0]; row++) {
                kvae_stream(model, numbers[1], row, choices, print_piece);
                puts("");
            }
    } else if (!strcmp(command, "score")) {
        kvae_score *scores = calloc(text_count, sizeof *scores);
        kvae_score_texts(model, texts, text_count, 0, scores);
        for (size_t i = 0; i < text_count; i++)
            printf("%.9g\t%.9g\t%.9g\t%.9g\t%s\n", scores[i].bound, scores[i].reconstruction,
                   scores[i].kl, scores[i].bits_per_character, texts[i]);
        free(scores);
    } else if (!strcmp(command, "encode")) {
        size_t size = (size_t)kvae_latent_size(model);
        float *codes = calloc(text_count * size + 1, sizeof *codes);
        kvae_encode(model, texts, text_count, codes);
        for (size_t i = 0; i < text_count * size; i++)
            printf("%.9g%c", codes[i], (i + 1) % size ? ' ' : '\n');
        free(codes);
    } else {
        fprintf(stderr, "%s\n", usage);
        return 2;
    }
    kvae_close(model);
    return 0;
}
