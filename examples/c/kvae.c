#include "kvae.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VALUES = 64 }; /* inputs or outputs of a graph */
static const char *const GRAPHS[] = {"sampler", "encoder", "prior", "scorer", "expand", "step"};
enum { GRAPH_COUNT = sizeof GRAPHS / sizeof *GRAPHS };

struct kvae {
    const OrtApi *ort;
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtMemoryInfo *memory;
    OrtSession *sessions[GRAPH_COUNT];
    char *folder;
    cJSON *manifest;
    int length, latent_size, attributes, lines, bytes;
    float temperature;
    const char **symbols;
    int symbol_count;
};

typedef struct {
    const char *name;
    OrtValue *value;
} named;

/* --- errors and memory ---------------------------------------------------------------------- */

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void check(const kvae *model, OrtStatus *status, const char *what) {
    if (status) fail("%s: %s", what, model->ort->GetErrorMessage(status));
}

static void *allocated(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) fail("there is not enough memory");
    return memory;
}

/* --- the bundle ----------------------------------------------------------------------------- */

static char *contents_of(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s: cannot be read", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *content = allocated((size_t)size + 1, 1);
    if (fread(content, 1, (size_t)size, file) != (size_t)size) fail("%s: cannot be read", path);
    fclose(file);
    return content;
}

static const cJSON *field(const cJSON *object, const char *name) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!value) fail("manifest.json: %s is missing", name);
    return value;
}

static void read_manifest(kvae *model) {
    char *path = allocated(strlen(model->folder) + 32, 1);
    sprintf(path, "%s/manifest.json", model->folder);
    char *content = contents_of(path);
    model->manifest = cJSON_Parse(content);
    if (!model->manifest) fail("%s: is not JSON", path);
    const cJSON *latent = field(model->manifest, "latent");
    const cJSON *vocabulary = field(model->manifest, "vocabulary");
    const cJSON *symbols = field(vocabulary, "symbols");
    const char *tokenizer = field(vocabulary, "tokenizer")->valuestring;
    model->bytes = !strcmp(tokenizer, "byte");
    if (!model->bytes && strcmp(tokenizer, "char"))
        fail("%s: this client has the tokenizers char and byte, not %s", path, tokenizer);
    model->length = field(model->manifest, "length")->valueint;
    model->lines = !strcmp(field(model->manifest, "mode")->valuestring, "lines");
    model->latent_size = field(latent, "size")->valueint;
    model->attributes = cJSON_GetArraySize(field(latent, "attributes"));
    model->temperature = (float)field(field(model->manifest, "defaults"), "temperature")->valuedouble;
    model->symbol_count = cJSON_GetArraySize(symbols);
    model->symbols = allocated((size_t)model->symbol_count, sizeof *model->symbols);
    const cJSON *symbol;
    int number = 0;
    cJSON_ArrayForEach(symbol, symbols) model->symbols[number++] = symbol->valuestring;
    free(content);
    free(path);
}

kvae *kvae_open(const char *folder) {
    kvae *model = allocated(1, sizeof *model);
    model->folder = allocated(strlen(folder) + 1, 1);
    strcpy(model->folder, folder);
    model->ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!model->ort) fail("onnxruntime is older than the headers of this program");
    read_manifest(model);
    const OrtApi *ort = model->ort;
    check(model, ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "kvae", &model->env), "onnxruntime");
    check(model, ort->CreateSessionOptions(&model->options), "onnxruntime");
    check(model, ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &model->memory),
          "onnxruntime");
    return model;
}

void kvae_close(kvae *model) {
    for (int graph = 0; graph < GRAPH_COUNT; graph++)
        if (model->sessions[graph]) model->ort->ReleaseSession(model->sessions[graph]);
    model->ort->ReleaseMemoryInfo(model->memory);
    model->ort->ReleaseSessionOptions(model->options);
    model->ort->ReleaseEnv(model->env);
    cJSON_Delete(model->manifest);
    free(model->symbols);
    free(model->folder);
    free(model);
}

int kvae_length(const kvae *model) { return model->length; }
int kvae_latent_size(const kvae *model) { return model->latent_size; }

kvae_choices kvae_defaults(const kvae *model) {
    return (kvae_choices){model->temperature, 1.0f, 0, 1, model->length};
}

/* --- graphs --------------------------------------------------------------------------------- */

static OrtSession *session_of(kvae *model, const char *graph) {
    int number = 0;
    while (strcmp(GRAPHS[number], graph)) number++;
    if (!model->sessions[number]) {
        char *path = allocated(strlen(model->folder) + 32, 1);
        sprintf(path, "%s/%s.onnx", model->folder, graph);
        check(model,
              model->ort->CreateSession(model->env, path, model->options, &model->sessions[number]),
              path);
        free(path);
    }
    return model->sessions[number];
}

/* Numbers as an input. The numbers must stay until the run. */
static named input(kvae *model, const char *name, ONNXTensorElementDataType type, void *data,
                   size_t bytes, const int64_t *shape, size_t rank) {
    named made = {name, NULL};
    check(model,
          model->ort->CreateTensorWithDataAsOrtValue(model->memory, data, bytes, shape, rank, type,
                                                     &made.value),
          name);
    return made;
}

static named whole(kvae *model, const char *name, int64_t *numbers, const int64_t *shape,
                   size_t rank) {
    size_t count = rank ? (size_t)shape[0] : 1;
    return input(model, name, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, numbers, count * sizeof *numbers,
                 shape, rank);
}

static named real(kvae *model, const char *name, float *number) {
    return input(model, name, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, number, sizeof *number, NULL, 0);
}

/* Runs a graph. Takes the inputs; the caller releases the outputs. */
static void run(kvae *model, const char *graph, named *inputs, size_t input_count,
                const char *const *names, OrtValue **outputs, size_t output_count) {
    const char *input_names[MOST_VALUES];
    const OrtValue *values[MOST_VALUES];
    for (size_t i = 0; i < input_count; i++) {
        input_names[i] = inputs[i].name;
        values[i] = inputs[i].value;
    }
    for (size_t i = 0; i < output_count; i++) outputs[i] = NULL;
    check(model,
          model->ort->Run(session_of(model, graph), NULL, input_names, values, input_count, names,
                          output_count, outputs),
          graph);
    for (size_t i = 0; i < input_count; i++) model->ort->ReleaseValue(inputs[i].value);
}

static void *data_of(kvae *model, OrtValue *value) {
    void *data;
    check(model, model->ort->GetTensorMutableData(value, &data), "an output");
    return data;
}

static int64_t axis_of(kvae *model, OrtValue *value, size_t axis) {
    OrtTensorTypeAndShapeInfo *info;
    int64_t shape[8] = {0};
    size_t rank;
    check(model, model->ort->GetTensorTypeAndShape(value, &info), "an output");
    check(model, model->ort->GetDimensionsCount(info, &rank), "an output");
    check(model, model->ort->GetDimensions(info, shape, rank < 8 ? rank : 8), "an output");
    model->ort->ReleaseTensorTypeAndShapeInfo(info);
    return shape[axis];
}

/* --- texts ---------------------------------------------------------------------------------- */

/* The bytes of the character at the start of UTF-8 text. */
static size_t character_size(const char *text) {
    unsigned char first = (unsigned char)*text;
    size_t size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    return strnlen(text, size);
}

/* The byte that a symbol of the tokenizer `byte` stands for: its code point, up to U+00FF. */
static int byte_of(const char *symbol) {
    const unsigned char *bytes = (const unsigned char *)symbol;
    return bytes[0] < 0x80 ? bytes[0] : (bytes[0] & 3) << 6 | (bytes[1] & 63);
}

static int id_of(const kvae *model, const char *text, size_t size) {
    for (int number = 0; number < model->symbol_count; number++) {
        const char *symbol = model->symbols[number];
        if (model->bytes ? byte_of(symbol) == (unsigned char)*text
                         : strlen(symbol) == size && !memcmp(symbol, text, size))
            return SPECIALS + number;
    }
    return UNKNOWN;
}

/* A row of T ids: the text, END, PAD. A window has exactly T ids and no END. */
static void row_of(const kvae *model, const char *text, int32_t *row) {
    const cJSON *folds = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(model->manifest, "vocabulary"), "fold_case");
    if (cJSON_IsTrue(folds)) fail("this client does not read texts in lower case");
    int count = 0, most = model->length - model->lines;
    for (size_t size; *text; text += size) {
        size = model->bytes ? 1 : character_size(text);
        if (count == most) fail("a text has more than %d tokens", most);
        row[count++] = id_of(model, text, size);
    }
    if (!model->lines && count < model->length) fail("a text has fewer than %d tokens", most);
    if (model->lines) row[count++] = END;
    while (count < model->length) row[count++] = PAD;
}

/* Appends the text of an id and returns the new end. */
static char *append(const kvae *model, char *end, int64_t id) {
    if (id < SPECIALS) return end;
    const char *symbol = model->symbols[id - SPECIALS];
    if (model->bytes)
        *end++ = (char)byte_of(symbol);
    else
        end = stpcpy(end, symbol);
    *end = 0;
    return end;
}

/* --- what the graphs are for ---------------------------------------------------------------- */

void kvae_sample(kvae *model, int64_t count, int64_t seed, int64_t first_row, kvae_choices choices,
                 void (*take)(const char *text)) {
    const char *const names[] = {"ids", "lengths"};
    char *text = allocated((size_t)model->length + 1, 4);
    for (int64_t done = 0, size; done < count; done += size) {
        size = count - done < CHUNK ? count - done : CHUNK;
        int64_t seeds[CHUNK], rows[CHUNK], no_codes[] = {0, model->latent_size};
        for (int64_t i = 0; i < size; i++) {
            seeds[i] = seed;
            rows[i] = first_row + done + i;
        }
        float nothing = 0;
        named inputs[] = {
            whole(model, "seed", seeds, &size, 1),
            whole(model, "row", rows, &size, 1),
            input(model, "z", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &nothing, 0, no_codes, 2),
            real(model, "temperature", &choices.temperature),
            whole(model, "top_k", &choices.top_k, NULL, 0),
            real(model, "top_p", &choices.top_p),
            whole(model, "min_length", &choices.min_length, NULL, 0),
            whole(model, "max_length", &choices.max_length, NULL, 0),
        };
        OrtValue *outputs[2];
        run(model, "sampler", inputs, sizeof inputs / sizeof *inputs, names, outputs, 2);
        int64_t *ids = data_of(model, outputs[0]), *lengths = data_of(model, outputs[1]);
        int64_t time = axis_of(model, outputs[0], 1);
        for (int64_t i = 0; i < size; i++) {
            char *end = text;
            *end = 0;
            for (int64_t t = 0; t < lengths[i]; t++) end = append(model, end, ids[i * time + t]);
            take(text);
        }
        for (int i = 0; i < 2; i++) model->ort->ReleaseValue(outputs[i]);
    }
    free(text);
}

/* The names of `count` states: `prefix` and their numbers. */
static void state_names(char names[][32], const char *prefix, size_t count) {
    for (size_t i = 0; i < count; i++) sprintf(names[i], "%sstate_%zu", prefix, i);
}

void kvae_stream(kvae *model, int64_t seed, int64_t row, kvae_choices choices,
                 void (*take)(const char *piece)) {
    int64_t one = 1, previous = START;
    size_t states;
    check(model, model->ort->SessionGetOutputCount(session_of(model, "expand"), &states), "expand");
    states--; /* all outputs but `projected` */
    if (states + 10 > MOST_VALUES) fail("a head of %zu states is too large", states);

    named place[] = {whole(model, "seed", &seed, &one, 1), whole(model, "row", &row, &one, 1)};
    const char *const codes[] = {"z"};
    OrtValue *z;
    run(model, "prior", place, 2, codes, &z, 1);

    char first[MOST_VALUES][32], before[MOST_VALUES][32], after[MOST_VALUES][32];
    state_names(first, "first_", states);
    state_names(before, "", states);
    state_names(after, "new_", states);
    const char *names[MOST_VALUES] = {"projected"};
    OrtValue *outputs[MOST_VALUES];
    for (size_t i = 0; i < states; i++) names[1 + i] = first[i];
    named code = {"z", z};
    run(model, "expand", &code, 1, names, outputs, 1 + states);
    OrtValue *projected = outputs[0];
    float *features = data_of(model, projected);
    int64_t width = axis_of(model, projected, 2), shape[] = {1, width};
    OrtValue *memory[MOST_VALUES];
    for (size_t i = 0; i < states; i++) memory[i] = outputs[1 + i];

    names[0] = "symbol";
    for (size_t i = 0; i < states; i++) names[1 + i] = after[i];
    for (int64_t position = 0; position < choices.max_length; position++) {
        named inputs[MOST_VALUES] = {
            input(model, "projected", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                  features + position * width, (size_t)width * sizeof *features, shape, 2),
            whole(model, "previous", &previous, &one, 1),
            whole(model, "position", &position, NULL, 0),
            whole(model, "seed", &seed, &one, 1),
            whole(model, "row", &row, &one, 1),
            real(model, "temperature", &choices.temperature),
            whole(model, "top_k", &choices.top_k, NULL, 0),
            real(model, "top_p", &choices.top_p),
            whole(model, "min_length", &choices.min_length, NULL, 0),
        };
        for (size_t i = 0; i < states; i++) inputs[9 + i] = (named){before[i], memory[i]};
        run(model, "step", inputs, 9 + states, names, outputs, 1 + states);
        previous = *(int64_t *)data_of(model, outputs[0]);
        model->ort->ReleaseValue(outputs[0]);
        for (size_t i = 0; i < states; i++) memory[i] = outputs[1 + i];
        if (previous == END) break;
        char piece[8];
        append(model, piece, previous);
        take(piece);
    }
    for (size_t i = 0; i < states; i++) model->ort->ReleaseValue(memory[i]);
    model->ort->ReleaseValue(projected);
}

static named tokens_of(kvae *model, const char *const *texts, int64_t count, int32_t *tokens) {
    int64_t shape[] = {count, model->length};
    for (int64_t i = 0; i < count; i++) row_of(model, texts[i], tokens + i * model->length);
    return input(model, "tokens", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, tokens,
                 (size_t)(count * model->length) * sizeof *tokens, shape, 2);
}

void kvae_score_texts(kvae *model, const char *const *texts, size_t count, int64_t seed,
                      kvae_score *scores) {
    const char *const names[] = {"kl", "nats"};
    int32_t *tokens = allocated((size_t)(CHUNK * model->length), sizeof *tokens), labels[CHUNK];
    for (size_t done = 0; done < count; done += CHUNK) {
        int64_t size = (int64_t)(count - done < CHUNK ? count - done : CHUNK);
        int64_t seeds[CHUNK], rows[CHUNK] = {0};
        for (int64_t i = 0; i < size; i++) {
            seeds[i] = seed;
            labels[i] = -1; /* the model infers the label */
        }
        named inputs[4] = {
            tokens_of(model, texts + done, size, tokens),
            whole(model, "seed", seeds, &size, 1),
            whole(model, "row", rows, &size, 1),
        };
        if (model->attributes)
            inputs[3] = input(model, "attribute", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, labels,
                              (size_t)size * sizeof *labels, &size, 1);
        OrtValue *outputs[2];
        run(model, "scorer", inputs, model->attributes ? 4 : 3, names, outputs, 2);
        float *kl = data_of(model, outputs[0]), *nats = data_of(model, outputs[1]);
        int64_t time = axis_of(model, outputs[1], 1);
        for (int64_t i = 0; i < size; i++) {
            kvae_score *score = &scores[done + (size_t)i];
            int characters = model->lines;
            for (const char *text = texts[done + (size_t)i]; *text; text += character_size(text))
                characters++;
            score->reconstruction = 0;
            for (int64_t t = 0; t < time; t++) score->reconstruction += nats[i * time + t];
            score->kl = kl[i];
            score->bound = score->reconstruction + score->kl;
            score->bits_per_character = score->bound / ((characters ? characters : 1) * log(2.0));
        }
        for (int i = 0; i < 2; i++) model->ort->ReleaseValue(outputs[i]);
    }
    free(tokens);
}

void kvae_encode(kvae *model, const char *const *texts, size_t count, float *codes) {
    const char *const names[] = {"mean"};
    int32_t *tokens = allocated((size_t)(CHUNK * model->length), sizeof *tokens);
    for (size_t done = 0; done < count; done += CHUNK) {
        int64_t size = (int64_t)(count - done < CHUNK ? count - done : CHUNK);
        named rows = tokens_of(model, texts + done, size, tokens);
        OrtValue *mean;
        run(model, "encoder", &rows, 1, names, &mean, 1);
        memcpy(codes + done * (size_t)model->latent_size, data_of(model, mean),
               (size_t)(size * model->latent_size) * sizeof *codes);
        model->ort->ReleaseValue(mean);
    }
    free(tokens);
}
