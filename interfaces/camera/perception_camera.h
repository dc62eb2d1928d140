/* The shared-memory channel of a camera, and a camera as a shared library; C11 and C++17.
 *
 * `perception run source:=lib:./libcamera.so:ARGUMENT` opens a library with the functions at the end
 * of this file, and has it write each frame where preprocessing reads it.
 * docs/reference/camera-channel.md specifies the channel for processes that fill it themselves. */
#ifndef PERCEPTION_CAMERA_H
#define PERCEPTION_CAMERA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define PERCEPTION_CAMERA_VERSION 1u
#define PERCEPTION_CAMERA_PREFIX "perception%u_"           /* of iceoryx2's files: ROS domain id */
#define PERCEPTION_CAMERA_SERVICE "perception/%s/camera"   /* the camera's name */
#define PERCEPTION_CAMERA_HEADER_TYPE "CameraHeader"       /* the user header's type name */
#define PERCEPTION_CAMERA_PAYLOAD_TYPE "u8"                /* the payload's: a slice of these */
#define PERCEPTION_CAMERA_DEPTH 4                          /* frames that wait for a reader */
#define PERCEPTION_CAMERA_BORROWED 4                       /* frames that a reader may hold */
#define PERCEPTION_CAMERA_ENDS 8                           /* publishers, and subscribers, at most */

#ifdef __cplusplus
extern "C" {
#endif

/* A frame in the channel. Texts end with a zero byte. */
struct CameraHeader {
    uint64_t number;     /* counts frames from 0 without gaps, lost ones included */
    int64_t stamp_ns;    /* wall clock at capture, nanoseconds since the Unix epoch */
    uint32_t width;      /* pixels */
    uint32_t height;     /* pixels */
    uint32_t step;       /* bytes of a row of the first plane */
    uint32_t size_bytes; /* of the frame */
    char encoding[32];   /* ROS name such as nv12, bgr8, bayer_rggb8; jpeg, png; or notice: no frame */
    char frame_id[64];   /* of the images and detections */
    uint32_t lost;       /* frames directly before this one that the sensor lost */
    uint32_t filled_us;  /* low 32 bits of CLOCK_MONOTONIC in microseconds when the frame came, or 0 */
};

static_assert(offsetof(struct CameraHeader, stamp_ns) == 8, "layout");
static_assert(offsetof(struct CameraHeader, width) == 16, "layout");
static_assert(offsetof(struct CameraHeader, height) == 20, "layout");
static_assert(offsetof(struct CameraHeader, step) == 24, "layout");
static_assert(offsetof(struct CameraHeader, size_bytes) == 28, "layout");
static_assert(offsetof(struct CameraHeader, encoding) == 32, "layout");
static_assert(offsetof(struct CameraHeader, frame_id) == 64, "layout");
static_assert(offsetof(struct CameraHeader, lost) == 128, "layout");
static_assert(offsetof(struct CameraHeader, filled_us) == 132, "layout");
static_assert(sizeof(struct CameraHeader) == 136, "layout");

/* What a library is opened for: it fills in what its frames will be. */
struct PerceptionCameraFormat {
    char encoding[32];
    uint32_t width;
    uint32_t height;
    uint32_t step;
    uint32_t size_bytes; /* of a frame, at most */
    double rate_hz;      /* 0 where it is not known */
    char error[256];     /* why opening failed: the device, what is wrong, the remedy */
};

enum PerceptionCameraResult {
    PERCEPTION_CAMERA_FRAME = 1,
    PERCEPTION_CAMERA_TIMEOUT = 0,
    PERCEPTION_CAMERA_GONE = -1,  /* unplugged or ended: it is closed, and opened again later */
    PERCEPTION_CAMERA_FAILED = -2 /* in a way that does not pass */
};

/* The library's functions. All are called by one thread. */

/* PERCEPTION_CAMERA_VERSION of the header that it was compiled with. */
uint32_t perception_camera_version(void);

/* Opens a camera; a null pointer if that fails, with the reason in format->error. */
void *perception_camera_open(const char *argument, struct PerceptionCameraFormat *format);

/* Waits for a frame, but no longer than the timeout, and writes it to `pixels`, where there is room
 * for size_bytes of the format. Sets the header's stamp_ns, and where they differ from what was set
 * before the call, lost (0) and size_bytes. Returns a PerceptionCameraResult. One that does not
 * return for 5 s beyond the timeout ends the process, which the graph starts again. */
int perception_camera_capture(void *camera, uint8_t *pixels, struct CameraHeader *header,
                              uint32_t timeout_ms);

/* Stops; nothing is written to `pixels` after this. */
void perception_camera_close(void *camera);

#ifdef __cplusplus
}
#endif
#endif
