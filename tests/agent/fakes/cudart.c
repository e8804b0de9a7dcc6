/* A CUDA runtime on the host's memory, to run the agent's calls for real.
 *
 * It is stricter than the real one, so that mistakes show: a stream does nothing until somebody waits for it, copies
 * must go between page-locked host memory and device memory in the direction that is named, and every handle counts.
 *
 * FAKE_CUDA_FAIL names a function that fails; FAKE_CUDA_MEMORY_MB (1024), FAKE_CUDA_DEVICES (1) and
 * FAKE_CUDA_VERSION (12060) say what there is. Compiled with -DOLD it has the graphs of CUDA before 11.4.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK, INVALID = 1, MEMORY = 2, NO_DEVICE = 100, HANDLE = 400, NOT_READY = 600, CAPTURE = 900, UNKNOWN = 999 };
enum { MOST = 4096 };

typedef int (*callback)(void);
typedef struct { long long ns; void *stream; int pending; } event;
typedef struct { char *to; const char *from; size_t bytes; callback call; event *mark; } operation;
typedef struct { operation *list; int count; } operations;
typedef struct { operations work; operations *capture; } stream;
typedef struct { char *address; size_t bytes; int on_device; } block;

static block blocks[MOST];
static int live; /* handles of every kind that are not given back */

static long number(const char *name, long otherwise) { return getenv(name) ? atol(getenv(name)) : otherwise; }

static int fails(const char *name) { return getenv("FAKE_CUDA_FAIL") && !strcmp(getenv("FAKE_CUDA_FAIL"), name); }
#define MAY_FAIL if (fails(__func__)) return UNKNOWN

static size_t used(void) {
    size_t sum = 0;
    for (int i = 0; i < MOST; i++) sum += blocks[i].address ? blocks[i].bytes : 0;
    return sum;
}

static int is_in(const char *address, size_t bytes, int on_device) {
    for (int i = 0; i < MOST; i++)
        if (blocks[i].address && blocks[i].on_device == on_device && address >= blocks[i].address &&
            address + bytes <= blocks[i].address + blocks[i].bytes)
            return 1;
    return 0;
}

static int allocate(void **out, size_t bytes, int on_device) {
    if (used() + bytes > (size_t)number("FAKE_CUDA_MEMORY_MB", 1024) << 20) return MEMORY;
    for (int i = 0; i < MOST; i++)
        if (!blocks[i].address) {
            blocks[i] = (block){malloc(bytes), bytes, on_device};
            memset(blocks[i].address, 0xA5, bytes); /* whoever reads what nobody wrote sees it */
            *out = blocks[i].address;
            live++;
            return OK;
        }
    return MEMORY;
}

static int release(void *address, int on_device) {
    for (int i = 0; i < MOST; i++)
        if (blocks[i].address == address && blocks[i].on_device == on_device) {
            free(address);
            blocks[i].address = NULL;
            live--;
            return OK;
        }
    return INVALID;
}

static void *handle(size_t bytes) { live++; return calloc(1, bytes); }
static int drop(void *pointer) { live--; free(pointer); return OK; }

static void append(operations *all, operation one) {
    all->list = realloc(all->list, (all->count + 1) * sizeof(operation));
    all->list[all->count++] = one;
}

static int put(stream *into, operation one) {
    if (!into) return HANDLE;
    append(into->capture ? into->capture : &into->work, one);
    return OK;
}

static int run(stream *one) {
    int code = OK;
    if (!one) return HANDLE;
    if (one->capture) return CAPTURE;
    for (int i = 0; i < one->work.count; i++) {
        operation *now = &one->work.list[i];
        if (now->bytes) memcpy(now->to, now->from, now->bytes);
        if (now->call && now->call() && !code) code = UNKNOWN;
        if (now->mark) {
            struct timespec at;
            clock_gettime(CLOCK_MONOTONIC, &at);
            now->mark->ns = at.tv_sec * 1000000000LL + at.tv_nsec;
            now->mark->pending = 0;
        }
    }
    one->work.count = 0;
    return code;
}

/* What only the stand-in of TensorRT uses, and what tests ask. */
int fake_enqueue(stream *into, callback call) { return put(into, (operation){.call = call}); }
int fake_live(void) { return live; }

int cudaGetLastError(void) { return OK; }
const char *cudaGetErrorString(int code) {
    switch (code) {
    case MEMORY: return "out of memory";
    case INVALID: return "invalid argument";
    case NO_DEVICE: return "no CUDA-capable device is detected";
    case HANDLE: return "invalid resource handle";
    case NOT_READY: return "device not ready";
    case CAPTURE: return "operation not permitted when stream is capturing";
    default: return "unknown error";
    }
}

int cudaGetDeviceCount(int *count) { *count = number("FAKE_CUDA_DEVICES", 1); return *count ? OK : NO_DEVICE; }
int cudaGetDevice(int *device) { MAY_FAIL; *device = 0; return OK; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    if (device || (attribute != 75 && attribute != 76)) return INVALID;
    *value = attribute == 75 ? 8 : 7;
    return OK;
}
int cudaGetDeviceProperties(char *properties, int device) {
    if (device) return INVALID;
    memset(properties, 0x7F, 1032); /* as large as the structure of CUDA 12 */
    strcpy(properties, "Orin (stand-in)");
    return OK;
}
int cudaRuntimeGetVersion(int *version) { *version = number("FAKE_CUDA_VERSION", 12060); return OK; }
int cudaDriverGetVersion(int *version) { *version = 13020; return OK; }
int cudaMemGetInfo(size_t *left, size_t *total) {
    *total = (size_t)number("FAKE_CUDA_MEMORY_MB", 1024) << 20;
    *left = *total - used();
    return OK;
}

int cudaMalloc(void **out, size_t bytes) { MAY_FAIL; return allocate(out, bytes, 1); }
int cudaFree(void *address) { return release(address, 1); }
int cudaHostAlloc(void **out, size_t bytes, unsigned flags) { MAY_FAIL; return flags ? INVALID : allocate(out, bytes, 0); }
int cudaFreeHost(void *address) { return release(address, 0); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, stream *into) {
    MAY_FAIL;
    if ((kind != 1 && kind != 2) || !is_in(to, bytes, kind == 1) || !is_in(from, bytes, kind == 2)) return INVALID;
    return put(into, (operation){.to = to, .from = from, .bytes = bytes});
}

int cudaStreamCreateWithFlags(void **out, unsigned flags) { *out = handle(sizeof(stream)); return flags == 1 ? OK : INVALID; }
int cudaStreamSynchronize(stream *one) { MAY_FAIL; return run(one); }
int cudaStreamDestroy(stream *one) { free(one->work.list); return drop(one); }

int cudaEventCreate(void **out) { *out = handle(sizeof(event)); return OK; }
int cudaEventRecord(event *mark, stream *into) {
    mark->stream = into;
    mark->pending = 1;
    return put(into, (operation){.mark = mark});
}
int cudaEventSynchronize(event *mark) { return mark->pending ? run(mark->stream) : OK; }
int cudaEventElapsedTime(float *milliseconds, event *begin, event *end) {
    if (begin->pending || end->pending || !begin->ns || !end->ns) return NOT_READY;
    *milliseconds = (end->ns - begin->ns) / 1e6;
    return OK;
}
int cudaEventDestroy(event *mark) { return drop(mark); }

int cudaStreamBeginCapture(stream *one, int mode) {
    if (mode != 1 || one->capture) return INVALID;
    one->capture = handle(sizeof(operations));
    return OK;
}
int cudaStreamEndCapture(stream *one, void **graph) {
    MAY_FAIL;
    if (!one->capture) return INVALID;
    *graph = one->capture;
    one->capture = NULL;
    return OK;
}
static int instantiate(void **instance, operations *graph) {
    operations *own = *instance = handle(sizeof(operations));
    for (int i = 0; i < graph->count; i++) append(own, graph->list[i]);
    return OK;
}
#ifdef OLD
int cudaGraphInstantiate(void **instance, void *graph, void *node, char *log, size_t bytes) {
    return node || log || bytes ? INVALID : instantiate(instance, graph);
}
#else
int cudaGraphInstantiateWithFlags(void **instance, void *graph, unsigned long long flags) {
    MAY_FAIL;
    return flags ? INVALID : instantiate(instance, graph);
}
#endif
int cudaGraphLaunch(operations *instance, stream *into) {
    for (int i = 0; i < instance->count; i++)
        if (put(into, instance->list[i])) return HANDLE;
    return OK;
}
int cudaGraphDestroy(operations *graph) { free(graph->list); return drop(graph); }
int cudaGraphExecDestroy(operations *instance) { free(instance->list); return drop(instance); }
