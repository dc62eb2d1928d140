/* A libcuda.so.1 whose device is the host: memory is malloc's, what is put on a stream is done at
 * once, or taken down where the stream is captured. It is for what the Python modules over it do
 * with their arguments, and knows one kernel, `add`, and those of the project, compiled for the host
 * in the libraries that STUB_CUDA_KERNELS names. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500 };
enum { MEMORY_BYTES = 1 << 24, MAPPED = 2, MAJOR = 75, MINOR = 76, INTEGRATED = 18 };

typedef struct {
    enum { COPY, FILL, LAUNCH, MARK, CALL } kind;
    void *to;
    const void *from;
    size_t size;
    int value;
    struct Function *function;
    unsigned grid[2];
    uint8_t parameters[2048];
} Operation;

typedef struct {
    Operation operations[128];
    int count;
} Graph;

typedef struct {
    Graph *captured;
} Stream;

typedef struct Function {
    const char *name;
    void *code;
} Function;

typedef struct {
    uint64_t source, to;
    int32_t count;
    uint8_t added;
} AddParameters;

static size_t used;
static float clock_ms;
static void *contexts[8]; /* a stack; the last one is current */
static int depth, retained;

static void run(const Operation *o) {
    if (o->kind == CALL) ((void (*)(void))o->to)();
    if (o->kind == COPY) memmove(o->to, o->from, o->size);
    if (o->kind == FILL) memset(o->to, o->value, o->size);
    if (o->kind == MARK) *(float *)o->to = clock_ms += 0.25f;
    if (o->kind == LAUNCH && o->function->code) {
        const unsigned *g = o->grid;
        void *code = o->function->code;
        if (strcmp(o->function->name, "preprocess"))
            ((void (*)(const void *, int, int))code)(o->parameters, g[0], 0);
        else
            ((void (*)(const void *, int, int, int))code)(o->parameters, g[0], g[1], 0);
    } else if (o->kind == LAUNCH) {
        AddParameters p;
        memcpy(&p, o->parameters, sizeof p);
        for (int i = 0; i < p.count; i++)
            ((uint8_t *)p.to)[i] = ((const uint8_t *)p.source)[i] + p.added;
    }
}

static int put(Stream *s, Operation o) {
    if (!s || !depth) return INVALID_VALUE;
    if (s->captured) s->captured->operations[s->captured->count++] = o;
    else run(&o);
    return OK;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }
int cuDriverGetVersion(int *v) { return *v = 13000, OK; }
int cuDeviceGet(int *device, int index) { return *device = index, index ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int size, int device) {
    return snprintf(name, size, "Stub GPU %d", device), OK;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    return *bytes = MEMORY_BYTES, device ? INVALID_DEVICE : OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == MAJOR ? 8 : attribute == MINOR ? 7 : attribute == INTEGRATED;
    return device ? INVALID_DEVICE : OK;
}
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    return device ? INVALID_DEVICE : flags == 4 ? OK : INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    return *context = &used, retained++, device ? INVALID_DEVICE : OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    return device || !retained-- ? INVALID_DEVICE : OK;
}
int cuCtxPushCurrent_v2(void *context) { return contexts[depth++] = context, OK; }
int cuCtxPopCurrent_v2(void **context) {
    return depth ? *context = contexts[--depth], OK : INVALID_VALUE;
}
int cuCtxSetCurrent(void *context) {
    depth -= depth > 0;
    return context ? cuCtxPushCurrent_v2(context) : OK;
}
int cuCtxGetCurrent(void **context) { return *context = depth ? contexts[depth - 1] : NULL, OK; }

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > MEMORY_BYTES - used) return OUT_OF_MEMORY;
    size_t *block = malloc(size + 64);
    used += *block = size;
    return *address = (uint64_t)block + 64, OK;
}
int cuMemFree_v2(uint64_t address) {
    size_t *block = (size_t *)(address - 64);
    used -= *block;
    free(block);
    return OK;
}
int cuMemHostAlloc(void **p, size_t size, unsigned flags) {
    return *p = malloc(size), flags == MAPPED ? OK : INVALID_VALUE;
}
int cuMemFreeHost(void *p) { return free(p), OK; }
int cuMemHostRegister_v2(void *p, size_t size, unsigned flags) {
    return p && size && flags & MAPPED ? OK : INVALID_VALUE;
}
int cuMemHostUnregister(void *p) { return p ? OK : INVALID_VALUE; }
int cuMemHostGetDevicePointer_v2(uint64_t *address, void *p, unsigned flags) {
    return *address = (uint64_t)p, flags ? INVALID_VALUE : OK;
}

int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    return *least = 0, *greatest = -5, depth ? OK : INVALID_VALUE;
}
int cuStreamCreateWithPriority(Stream **s, unsigned flags, int priority) {
    return *s = calloc(1, sizeof **s), flags == 1 && priority == -5 && depth ? OK : INVALID_VALUE;
}
int cuStreamDestroy_v2(Stream *s) { return free(s), OK; }
int cuStreamSynchronize(Stream *s) {
    /* The device fails for the one process that finds this file first. */
    const char *fails = getenv("STUB_CUDA_FAILS");
    if (fails && !unlink(fails)) return 700;
    return s && !s->captured ? OK : INVALID_VALUE;
}
int cuEventCreate(float **e, unsigned flags) { return *e = calloc(1, 4), flags == 1 ? OK : 1; }
int cuEventDestroy_v2(float *e) { return free(e), OK; }
int cuEventRecord(float *e, Stream *s) { return put(s, (Operation){MARK, e}); }
int cuEventSynchronize(float *e) { return *e ? OK : INVALID_VALUE; }
int cuEventElapsedTime(float *ms, float *a, float *b) { return *ms = *b - *a, OK; }
int cuEventElapsedTime_v2(float *ms, float *a, float *b) { return *ms = *b - *a, OK; }
int cuMemcpyAsync(uint64_t to, uint64_t from, size_t size, Stream *s) {
    return put(s, (Operation){COPY, (void *)to, (const void *)from, size});
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, Stream *s) {
    return put(s, (Operation){FILL, (void *)to, NULL, size, value});
}

/* No call of CUDA's: what a library over it puts on a stream. */
int stubCall(void (*function)(void), Stream *s) { return put(s, (Operation){CALL, function}); }

int cuModuleLoadData(void **module, const void *image) {
    int known = !strcmp(image, "cubin") || !memcmp(image, "\177ELF", 4);
    return *module = (void *)image, known ? OK : 209;
}
int cuModuleUnload(void *module) { return module ? OK : INVALID_VALUE; }
int cuModuleGetFunction(Function **function, void *module, const char *name) {
    *function = calloc(1, sizeof **function);
    (*function)->name = strdup(name);
    if (!strcmp(name, "add")) return module ? OK : INVALID_VALUE;
    const char *paths = getenv("STUB_CUDA_KERNELS");
    char *list = strdup(paths ? paths : "");
    for (char *path = strtok(list, ":"); path; path = strtok(NULL, ":")) {
        void *library = dlopen(path, RTLD_NOW);
        if (library && !(*function)->code) (*function)->code = dlsym(library, name);
    }
    free(list);
    return (*function)->code ? OK : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, Stream *s, void **parameters, void **extra) {
    if (!function || parameters || gx * bx < 64 || gz * by * bz != 1 || shared)
        return INVALID_VALUE;
    Operation o = {LAUNCH, .function = function, .grid = {gx, gy}};
    size_t size = 0;
    const void *buffer = NULL;
    for (; *extra; extra += 2) {
        if (*extra == (void *)1) buffer = extra[1];
        if (*extra == (void *)2) size = *(size_t *)extra[1];
    }
    if (!buffer || size < sizeof(AddParameters) - 3 || size > sizeof o.parameters)
        return INVALID_VALUE;
    memcpy(o.parameters, buffer, size);
    return put(s, o);
}

int cuStreamBeginCapture_v2(Stream *s, int mode) {
    return s->captured = calloc(1, sizeof(Graph)), mode == 1 ? OK : INVALID_VALUE;
}
int cuStreamEndCapture(Stream *s, Graph **g) { return *g = s->captured, s->captured = NULL, OK; }
int cuGraphInstantiateWithFlags(Graph **exec, Graph *g, unsigned long long flags) {
    *exec = malloc(sizeof **exec);
    memcpy(*exec, g, sizeof *g);
    return flags ? INVALID_VALUE : OK;
}
int cuGraphUpload(Graph *g, Stream *s) { return g && s && !s->captured ? OK : INVALID_VALUE; }
int cuGraphDestroy(Graph *g) { return free(g), OK; }
int cuGraphExecDestroy(Graph *g) { return free(g), OK; }
int cuGraphLaunch(Graph *g, Stream *s) {
    for (int i = 0; i < g->count; i++)
        if (put(s, g->operations[i])) return INVALID_VALUE;
    return OK;
}

static const struct {
    int verdict;
    const char *name, *text;
} ERRORS[] = {
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}};
static int known(int verdict) {
    int i = 0;
    while (ERRORS[i].verdict != verdict && ERRORS[i].verdict != INVALID_VALUE) i++;
    return i;
}
int cuGetErrorString(int verdict, const char **text) {
    return *text = ERRORS[known(verdict)].text, OK;
}
int cuGetErrorName(int verdict, const char **name) {
    return *name = ERRORS[known(verdict)].name, OK;
}

/* How newer modules find all of the others, by names without versions. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *how) {
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(RTLD_DEFAULT, versioned);
    if (!*function) *function = dlsym(RTLD_DEFAULT, name);
    if (!*function && !strcmp(name, "cuGraphInstantiate"))
        *function = (void *)cuGraphInstantiateWithFlags;
    if (how) *how = *function ? 0 : 1;
    return version && !flags ? OK : OK;
}
