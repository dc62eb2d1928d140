// A camera as a shared library: a white bar that moves over a grey picture, 320 x 240 at 50 Hz.
//
//   c++ -std=c++17 -shared -fPIC moving_bar.cpp -o libmoving_bar.so
//   perception run --view source:=lib:./libmoving_bar.so
#include "perception_camera.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace {

constexpr uint32_t kWidth = 320, kHeight = 240, kBar = 16;
constexpr std::chrono::milliseconds kPeriod{20};

struct Camera {
    uint64_t frames_left;  // until it is unplugged, so to speak
    uint64_t taken = 0;
    std::chrono::steady_clock::time_point due = std::chrono::steady_clock::now();
};

}  // namespace

uint32_t perception_camera_version() { return PERCEPTION_CAMERA_VERSION; }

void *perception_camera_open(const char *argument, PerceptionCameraFormat *format) {
    char *end = nullptr;
    const uint64_t frames = *argument ? std::strtoull(argument, &end, 10) : UINT64_MAX;
    if (end && *end) {
        std::snprintf(format->error, sizeof format->error,
                      "moving bar: '%s' is not a number of frames", argument);
        return nullptr;
    }
    std::strcpy(format->encoding, "mono8");
    format->width = format->step = kWidth;
    format->height = kHeight;
    format->size_bytes = kWidth * kHeight;
    format->rate_hz = 50;
    return new Camera{frames};
}

int perception_camera_capture(void *opened, uint8_t *pixels, CameraHeader *header,
                              uint32_t timeout_ms) {
    auto *camera = static_cast<Camera *>(opened);
    if (camera->taken == camera->frames_left) return PERCEPTION_CAMERA_GONE;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    std::this_thread::sleep_until(std::min(camera->due, give_up));
    if (give_up < camera->due) return PERCEPTION_CAMERA_TIMEOUT;
    camera->due += kPeriod;
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    header->stamp_ns = std::chrono::nanoseconds(now).count();
    const uint32_t at = camera->taken++ * 4 % (kWidth - kBar);
    for (uint32_t row = 0; row < kHeight; ++row, pixels += kWidth) {
        std::memset(pixels, 90, kWidth);
        std::memset(pixels + at, 255, kBar);
    }
    return PERCEPTION_CAMERA_FRAME;
}

void perception_camera_close(void *camera) { delete static_cast<Camera *>(camera); }
