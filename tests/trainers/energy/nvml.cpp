/* NVIDIA's management library as far as perun calls it, for two GPUs that take WATTS_0 and WATTS_1, without a GPU. */
#include <stdio.h>
#include <string.h>

typedef int result;

extern "C" {
static int numbers[2] = {0, 1};
result nvmlInitWithFlags(unsigned flags) { return 0; }
result nvmlInit_v2(void) { return 0; }
result nvmlShutdown(void) { return 0; }
result nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
result nvmlSystemGetCudaDriverVersion(int *version) { *version = 12040; return 0; }
result nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }
result nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "550.0"); return 0; }
result nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &numbers[index]; return 0; }
result nvmlDeviceGetName(void *device, char *text, unsigned length) { snprintf(text, length, "GPU"); return 0; }
result nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    snprintf(text, length, "GPU-%d", *(int *)device);
    return 0;
}
result nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 1000 * (*(int *)device ? WATTS_1 : WATTS_0);
    return 0;
}
result nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *milliwatts) { *milliwatts = 400000; return 0; }
/* NVML_ERROR_NOT_SUPPORTED: what is not power. */
result nvmlDeviceGetMemoryInfo(void *device, void *memory) { return 3; }
result nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) { return 3; }
const char *nvmlErrorString(result error) { return "not supported"; }
}
