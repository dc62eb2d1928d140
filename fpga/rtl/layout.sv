// Generated from fpga/layout.yaml by fpga/generate.py.

// Not every name is used by the RTL.
/* verilator lint_off UNUSEDPARAM */
package layout;

  localparam logic [7:0] VERSION = 8'd1;
  localparam int unsigned ID = 1347306309;  // what register ID reads
  localparam int unsigned LANES = 16;  // channels in a word of activations, input and output channels of a block
  localparam int unsigned BANKS = 4;  // of the activation memory; column x of a tensor lies in bank x mod 4
  localparam int unsigned DESCRIPTOR_BYTES = 64;  // a descriptor
  localparam int unsigned PARAMETER_BYTES = 144;  // a parameter record, one for 16 output channels
  localparam int unsigned BEAT_BYTES = 16;  // the width of the memory bus; alignment of addresses
  localparam int unsigned SMALLEST_TILE = 8;  // vectors in a tile, at least

  localparam logic [7:0] OPCODE_LOAD = 8'd1;
  localparam logic [7:0] OPCODE_CONVOLVE = 8'd2;

  localparam logic [1:0] ACTIVATION_NONE = 2'd0;
  localparam logic [1:0] ACTIVATION_RELU = 2'd1;
  localparam logic [1:0] ACTIVATION_HARDSWISH = 2'd2;

  localparam logic [7:0] CAUSE_NONE = 8'd0;
  localparam logic [7:0] CAUSE_VERSION = 8'd1;
  localparam logic [7:0] CAUSE_OPCODE = 8'd2;
  localparam logic [7:0] CAUSE_SIZE = 8'd3;
  localparam logic [7:0] CAUSE_GEOMETRY = 8'd4;
  localparam logic [7:0] CAUSE_ADDRESS = 8'd5;
  localparam logic [7:0] CAUSE_ALIGNMENT = 8'd6;
  localparam logic [7:0] CAUSE_READ = 8'd7;
  localparam logic [7:0] CAUSE_WRITE = 8'd8;
  localparam logic [7:0] CAUSE_TIMEOUT = 8'd9;
  localparam logic [7:0] CAUSE_EMPTY = 8'd10;

  localparam logic [7:0] REG_ID = 8'h00;
  localparam logic [7:0] REG_VERSION = 8'h04;
  localparam logic [7:0] REG_GEOMETRY = 8'h08;
  localparam logic [7:0] REG_ROWS = 8'h0C;
  localparam logic [7:0] REG_CONTROL = 8'h10;
  localparam logic [7:0] REG_STATUS = 8'h14;
  localparam logic [7:0] REG_DESCRIPTORS_LOW = 8'h18;
  localparam logic [7:0] REG_DESCRIPTORS_HIGH = 8'h1C;
  localparam logic [7:0] REG_COUNT = 8'h20;
  localparam logic [7:0] REG_TIMEOUT = 8'h24;
  localparam logic [7:0] REG_IMAGE_LOW = 8'h28;
  localparam logic [7:0] REG_IMAGE_HIGH = 8'h2C;
  localparam logic [7:0] REG_OUTPUT_LOW = 8'h30;
  localparam logic [7:0] REG_OUTPUT_HIGH = 8'h34;
  localparam logic [7:0] REG_CYCLES = 8'h40;
  localparam logic [7:0] REG_MAC_CYCLES = 8'h44;
  localparam logic [7:0] REG_STALL_WEIGHTS = 8'h48;
  localparam logic [7:0] REG_STALL_DRAIN = 8'h4C;
  localparam logic [7:0] REG_STALL_DEPENDENCY = 8'h50;
  localparam logic [7:0] REG_STALL_PORT = 8'h54;
  localparam logic [7:0] REG_STALL_FETCH = 8'h58;
  localparam logic [7:0] REG_READ_BYTES = 8'h5C;
  localparam logic [7:0] REG_WRITE_BYTES = 8'h60;

  // Low bit of every field of a 512-bit descriptor.
  localparam int unsigned LOAD_OPCODE = 0;
  localparam int unsigned LOAD_VERSION = 8;
  localparam int unsigned LOAD_FOLD = 16;
  localparam int unsigned LOAD_WIDTH = 32;
  localparam int unsigned LOAD_HEIGHT = 48;
  localparam int unsigned LOAD_SOURCE_OFFSET = 128;
  localparam int unsigned LOAD_TARGET_BASE = 416;
  localparam int unsigned LOAD_TARGET_PIXEL_STRIDE = 432;
  localparam int unsigned LOAD_TARGET_LINE_STRIDE = 448;
  localparam int unsigned CONVOLVE_OPCODE = 0;
  localparam int unsigned CONVOLVE_VERSION = 8;
  localparam int unsigned CONVOLVE_NARROW = 16;
  localparam int unsigned CONVOLVE_WAIT = 17;
  localparam int unsigned CONVOLVE_RESIDUAL = 18;
  localparam int unsigned CONVOLVE_EXTERNAL = 19;
  localparam int unsigned CONVOLVE_SOURCE0_UPSAMPLE = 20;
  localparam int unsigned CONVOLVE_SOURCE1_UPSAMPLE = 21;
  localparam int unsigned CONVOLVE_WIDTH = 32;
  localparam int unsigned CONVOLVE_HEIGHT = 48;
  localparam int unsigned CONVOLVE_KERNEL_HEIGHT = 64;
  localparam int unsigned CONVOLVE_KERNEL_WIDTH = 68;
  localparam int unsigned CONVOLVE_STRIDE = 72;
  localparam int unsigned CONVOLVE_PAD_TOP = 76;
  localparam int unsigned CONVOLVE_PAD_LEFT = 80;
  localparam int unsigned CONVOLVE_OUTSIDE = 88;
  localparam int unsigned CONVOLVE_TILE = 96;
  localparam int unsigned CONVOLVE_GROUPS = 112;
  localparam int unsigned CONVOLVE_WEIGHTS_OFFSET = 128;
  localparam int unsigned CONVOLVE_PARAMETERS_OFFSET = 160;
  localparam int unsigned CONVOLVE_SOURCE0_BASE = 192;
  localparam int unsigned CONVOLVE_SOURCE0_GROUPS = 208;
  localparam int unsigned CONVOLVE_SOURCE0_PIXEL_STRIDE = 224;
  localparam int unsigned CONVOLVE_SOURCE0_LINE_STRIDE = 240;
  localparam int unsigned CONVOLVE_SOURCE1_BASE = 256;
  localparam int unsigned CONVOLVE_SOURCE1_GROUPS = 272;
  localparam int unsigned CONVOLVE_SOURCE1_PIXEL_STRIDE = 288;
  localparam int unsigned CONVOLVE_SOURCE1_LINE_STRIDE = 304;
  localparam int unsigned CONVOLVE_SOURCE_WIDTH = 320;
  localparam int unsigned CONVOLVE_SOURCE_HEIGHT = 336;
  localparam int unsigned CONVOLVE_RESIDUAL_BASE = 352;
  localparam int unsigned CONVOLVE_RESIDUAL_PIXEL_STRIDE = 368;
  localparam int unsigned CONVOLVE_RESIDUAL_LINE_STRIDE = 384;
  localparam int unsigned CONVOLVE_BEATS = 400;
  localparam int unsigned CONVOLVE_TARGET_BASE = 416;
  localparam int unsigned CONVOLVE_TARGET_PIXEL_STRIDE = 432;
  localparam int unsigned CONVOLVE_TARGET_LINE_STRIDE = 448;
  localparam int unsigned CONVOLVE_OUTPUT_OFFSET = 480;

  // The same in the last 128 bits of a parameter record.
  localparam int unsigned PARAMETER_STORE_MULTIPLIER = 0;
  localparam int unsigned PARAMETER_RESIDUAL_MULTIPLIER = 32;
  localparam int unsigned PARAMETER_SHIFT = 64;
  localparam int unsigned PARAMETER_FRACTION = 72;
  localparam int unsigned PARAMETER_ACTIVATION = 80;
  localparam int unsigned PARAMETER_STORE_SHIFT = 88;

endpackage
/* verilator lint_on UNUSEDPARAM */
