// Runs the kernels with the threads of a block, or the blocks of a grid, at once: built with
// ThreadSanitizer it tells of any two that touch the same memory without an order between them.
//
// KERNEL is the file: `decode`, `network` or `preprocess`.

#include KERNEL

#include <cstdio>
#include <cstdlib>
#include <memory>

static unsigned seed = 1;

static unsigned random_bits() {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

#ifdef DECODE

static void fill(std::vector<float>& values, float mean) {
    for (auto& value : values) value = mean + float(random_bits() % 8001) / 1000 - 4;
}

int main() {
    // Few candidates, and more than enter suppression; rectified, so that the way back is long.
    for (float mean : {-3.5f, 2.0f})
        for (int order : {BLOCKS_AT_ONCE, THREADS_AT_ONCE}) {
            constexpr int ROWS = 24, COLUMNS = 32, CLASSES = 3, BINS = 4, CELLS = ROWS * COLUMNS;
            std::vector<float> boxes(4 * BINS * CELLS), classes(CLASSES * CELLS);
            fill(boxes, 0);
            fill(classes, mean);
            std::vector<unsigned long long> keys(CELLS);
            std::vector<unsigned> labels(CELLS);
            auto state = std::make_unique<State>();
            auto result = std::make_unique<Result>();
            Job job = {};
            job.levels[0] = {boxes.data(), classes.data(), ROWS, COLUMNS, 8, 0};
            job.placement = {{0, 4}, {0.5, 0.5}, {512, 360}, {300, 300, 255, 180},
                             {250, 250, 255, 180}, {-0.2, 0.05, 0.001, 0.001}, 1.2, 1, 0};
            job.state = state.get();
            job.keys = keys.data();
            job.labels = labels.data();
            job.result = result.get();
            job.level_count = 1;
            job.cells = CELLS;
            job.classes = CLASSES;
            job.reg_max = BINS;
            job.iou_threshold = 0.6f;
            find_candidates(&job, (CELLS + FIND_THREADS - 1) / FIND_THREADS, order);
            decode_boxes(&job, (4 * CELLS + DECODE_THREADS - 1) / DECODE_THREADS, order);
            suppress(&job, 1, order);
            std::printf("%u found, %u entered, %u boxes\n", result->found, result->entered,
                        result->count);
            if (result->count == 0) return 1;
        }
}

#elif defined NETWORK

int main() {
    // One launch of layers that read the same and write side by side: a sum of 3 x 3 with a
    // residual, one of the image, and an output.
    constexpr int ROWS_ = 6, COLUMNS = 9, PIXELS_ = ROWS_ * COLUMNS, BYTES = 6 * GROUP;
    std::vector<signed char> codes(PIXELS_ * BYTES);
    std::vector<unsigned char> image(3 * PIXELS_);
    std::vector<uint4> weights(2 * 9 * WARP);
    std::vector<int2> parameters(2 * GROUP);
    std::vector<float> output(2 * GROUP * PIXELS_);
    for (auto& code : codes) code = random_bits();
    for (auto& byte : image) byte = random_bits();
    for (auto& word : weights) word = {random_bits(), random_bits(), random_bits(), random_bits()};
    for (auto& pair : parameters) pair = {int(random_bits() % 1000), 1 << 16};
    auto at = [&](int group) { return codes.data() + GROUP * group; };
    Launch launch = {};
    launch.count = 3;
    for (int n = 0; n < launch.count; n++) {
        Layer& layer = launch.layers[n];
        layer.weights = weights.data();
        layer.parameters = parameters.data();
        layer.target_bytes = layer.residual_bytes = BYTES;
        layer.segments[0] = {at(0), COLUMNS * BYTES, BYTES, 1, 0};
        layer.segments[1] = {at(1), COLUMNS * BYTES, BYTES, 1, 0};
        layer.height = ROWS_, layer.width = layer.out_width = COLUMNS, layer.pixels = PIXELS_;
        layer.kernel_height = layer.kernel_width = 3;
        layer.stride = layer.top = layer.left = 1;
        layer.groups = 2, layer.channels = 2 * GROUP;
        layer.activation = n, layer.shift = 20, layer.fraction = 4;
        layer.store_multiplier = 1 << 16, layer.store_shift = 22, layer.step = 0.0625f;
        layer.first_block = 2 * n;
    }
    launch.layers[0].target = at(2);
    launch.layers[0].residual = at(0);
    launch.layers[0].residual_multiplier = 100;
    launch.layers[1].image = 1;
    launch.layers[1].segments[0] = {reinterpret_cast<signed char*>(image.data()), 3 * COLUMNS, 3, 1, 0};
    launch.layers[1].segments[1].groups = 0;
    launch.layers[1].target = at(4);
    launch.layers[2].output = output.data();
    for (int order : {BLOCKS_AT_ONCE, THREADS_AT_ONCE}) convolve(&launch, 6, order);
    int sum = 0;
    for (int code : codes) sum += code;
    std::printf("codes add up to %d\n", sum);
    return sum == 0;
}

#else

int main() {
    constexpr int WIDTH = 130, HEIGHT = 9;
    std::vector<unsigned char> frame(WIDTH * HEIGHT * 3), out(WIDTH * HEIGHT * 3);
    for (auto& value : frame) value = random_bits();
    std::vector<int> columns(WIDTH), rows(HEIGHT);
    for (int i = 0; i < WIDTH; i++) columns[i] = (i << BITS) + (i < WIDTH - 1 ? 77 : 0);
    for (int i = 0; i < HEIGHT; i++) rows[i] = (i << BITS) + (i < HEIGHT - 1 ? 99 : 0);
    unsigned long long ticket = 0;
    Frame cell = {frame.data(), frame.data(), 9};
    for (int order : {BLOCKS_AT_ONCE, THREADS_AT_ONCE}) {
        Job job = {};
        job.planes[0] = {columns.data(), rows.data(), nullptr, nullptr, 0, 3 * WIDTH, 3,
                         WIDTH, HEIGHT, {0, 1, 2, 0}, 114, 31};
        job.frame = &cell;
        job.ticket = &ticket;
        job.out = out.data();
        job.inner_width = job.width = WIDTH;
        job.inner_height = job.height = HEIGHT;
        preprocess(&job, (WIDTH + TILE_WIDTH - 1) / TILE_WIDTH,
                   (HEIGHT + TILE_HEIGHT - 1) / TILE_HEIGHT, order);
    }
    std::printf("ticket %llu\n", ticket);
    return ticket != 9;
}

#endif
