// Fetches descriptors one by one and validates each before it hands it on.
module fetch #(
    parameter int unsigned TILE = 256,
    parameter int unsigned ROWS = 28672
) (
    input  logic         clk,
    input  logic         rst,
    input  logic [39:0]  base,
    input  logic [15:0]  count,

    output logic         request,
    output logic [39:0]  request_address,
    input  logic         grant,
    input  logic         data_valid,
    input  logic [127:0] data,

    output logic         valid,
    input  logic         ready,
    output logic [511:0] descriptor,
    output logic         finished,   // all have been handed on
    output logic         fault,
    output logic [7:0]   cause,
    output logic [15:0]  index       // of the newest descriptor asked for
);
  localparam logic [3:0] ASK = 4'd0, RECEIVE = 4'd1, INSPECT = 4'd2, COLLECT = 4'd3, JUDGE = 4'd4,
      PLACE = 4'd5, COMPARE = 4'd6, OFFER = 4'd7, NEXT_LOW = 4'd8, NEXT_MIDDLE = 4'd9,
      NEXT_HIGH = 4'd10, END = 4'd11, FAULT = 4'd12;

  logic [3:0] state;
  logic [1:0] beat;
  logic carry;

  // Fields.
  logic [7:0] opcode;
  logic load, narrow, external, residual, fold;
  logic [15:0] width, height, source_width, source_height, tile, groups, groups_0, groups_1;
  logic [15:0] target_pixel, target_line;
  logic [3:0] kernel_height, kernel_width, stride, beats;
  assign opcode = descriptor[layout::CONVOLVE_OPCODE+:8];
  assign load = opcode == layout::OPCODE_LOAD;
  assign fold = descriptor[layout::LOAD_FOLD];
  assign narrow = descriptor[layout::CONVOLVE_NARROW];
  assign external = descriptor[layout::CONVOLVE_EXTERNAL] && !load;
  assign residual = descriptor[layout::CONVOLVE_RESIDUAL] && !load;
  assign width = descriptor[layout::CONVOLVE_WIDTH+:16];
  assign height = descriptor[layout::CONVOLVE_HEIGHT+:16];
  assign source_width = descriptor[layout::CONVOLVE_SOURCE_WIDTH+:16];
  assign source_height = descriptor[layout::CONVOLVE_SOURCE_HEIGHT+:16];
  assign tile = descriptor[layout::CONVOLVE_TILE+:16];
  assign groups = descriptor[layout::CONVOLVE_GROUPS+:16];
  assign groups_0 = descriptor[layout::CONVOLVE_SOURCE0_GROUPS+:16];
  assign groups_1 = descriptor[layout::CONVOLVE_SOURCE1_GROUPS+:16];
  assign target_pixel = descriptor[layout::CONVOLVE_TARGET_PIXEL_STRIDE+:16];
  assign target_line = descriptor[layout::CONVOLVE_TARGET_LINE_STRIDE+:16];
  assign kernel_height = descriptor[layout::CONVOLVE_KERNEL_HEIGHT+:4];
  assign kernel_width = descriptor[layout::CONVOLVE_KERNEL_WIDTH+:4];
  assign stride = descriptor[layout::CONVOLVE_STRIDE+:4];
  assign beats = descriptor[layout::CONVOLVE_BEATS+:4];

  // What is wrong by itself: first field by field, then of all of them.
  logic bad_picture, bad_source, bad_kernel, bad_tile, bad_groups, bad_strides;
  logic bad_fold, bad_pairs, bad_beats, bad_image, bad_offsets;
  logic bad_version, bad_opcode, bad_size, bad_geometry, bad_alignment;
  logic [3:0] beat_mask;
  assign beat_mask = beats - 4'd1;
  always_ff @(posedge clk) begin
    bad_picture <= width == '0 || height == '0 || width > 16'd4095 || height > 16'd4095;
    bad_source <= source_width == '0 || source_height == '0 || source_width > 16'd4095
        || source_height > 16'd4095;
    bad_kernel <= kernel_height == '0 || kernel_width == '0 || (stride != 4'd1 && stride != 4'd2);
    bad_tile <= tile < 16'(layout::SMALLEST_TILE) || tile > 16'(TILE);
    bad_groups <= groups == '0 || groups > 16'd255 || groups_0 == '0 || groups_0 > 16'd255
        || groups_1 > 16'd255;
    bad_strides <= descriptor[layout::CONVOLVE_SOURCE0_PIXEL_STRIDE+:16] > 16'd511
        || (groups_1 != '0 && descriptor[layout::CONVOLVE_SOURCE1_PIXEL_STRIDE+:16] > 16'd511);
    bad_fold <= fold ? width[2:0] != '0 || height[0] : width[1:0] != '0;
    bad_pairs <= !narrow && groups[0];
    bad_beats <= external && ((beats != 4'd1 && beats != 4'd2 && beats != 4'd4)
                              || (beats != 4'd4 && groups != 16'd1)
                              || ((target_pixel[3:0] | target_line[3:0]) & beat_mask) != '0);
    bad_image <= descriptor[layout::LOAD_SOURCE_OFFSET+:4] != '0;
    bad_offsets <= descriptor[layout::CONVOLVE_WEIGHTS_OFFSET+:4] != '0
        || descriptor[layout::CONVOLVE_PARAMETERS_OFFSET+:4] != '0
        || (external && descriptor[layout::CONVOLVE_OUTPUT_OFFSET+:6] != '0);

    bad_version <= descriptor[layout::CONVOLVE_VERSION+:8] != layout::VERSION;
    bad_opcode <= !load && opcode != layout::OPCODE_CONVOLVE;
    bad_size <= bad_picture || (!load && (bad_source || bad_kernel || bad_tile || bad_groups
                                          || bad_strides));
    bad_geometry <= load ? bad_fold : bad_pairs || bad_beats;
    bad_alignment <= load ? bad_image : bad_offsets;
  end

  // Where the tensors end: segment 0, segment 1, residual, target.
  logic [1:0] tensor;
  logic used, up;
  logic [11:0] last_x, last_y, x, y;
  logic [15:0] line_stride, pixel_stride, row;
  logic [9:0] depth;
  logic [35:0] tensor_end;
  logic outside;
  logic [3:0] delay_left;
  always_comb begin
    used = 1'b1;
    up = 1'b0;
    last_x = 12'(width - 16'd1);
    last_y = 12'(height - 16'd1);
    line_stride = target_line;
    pixel_stride = target_pixel;
    row = descriptor[layout::CONVOLVE_TARGET_BASE+:16];
    depth = load ? 10'd1 : groups[9:0];
    case (tensor)
      2'd0: begin
        used = !load;
        up = descriptor[layout::CONVOLVE_SOURCE0_UPSAMPLE];
        last_x = 12'(source_width - 16'd1);
        last_y = 12'(source_height - 16'd1);
        line_stride = descriptor[layout::CONVOLVE_SOURCE0_LINE_STRIDE+:16];
        pixel_stride = descriptor[layout::CONVOLVE_SOURCE0_PIXEL_STRIDE+:16];
        row = descriptor[layout::CONVOLVE_SOURCE0_BASE+:16];
        depth = groups_0[9:0];
      end
      2'd1: begin
        used = !load && groups_1 != '0;
        up = descriptor[layout::CONVOLVE_SOURCE1_UPSAMPLE];
        last_x = 12'(source_width - 16'd1);
        last_y = 12'(source_height - 16'd1);
        line_stride = descriptor[layout::CONVOLVE_SOURCE1_LINE_STRIDE+:16];
        pixel_stride = descriptor[layout::CONVOLVE_SOURCE1_PIXEL_STRIDE+:16];
        row = descriptor[layout::CONVOLVE_SOURCE1_BASE+:16];
        depth = groups_1[9:0];
      end
      2'd2: begin
        used = residual;
        line_stride = descriptor[layout::CONVOLVE_RESIDUAL_LINE_STRIDE+:16];
        pixel_stride = descriptor[layout::CONVOLVE_RESIDUAL_PIXEL_STRIDE+:16];
        row = descriptor[layout::CONVOLVE_RESIDUAL_BASE+:16];
      end
      default: begin
        used = !external;
        up = load && fold;
      end
    endcase
  end
  always_ff @(posedge clk) begin
    x <= (up ? last_x >> 1 : last_x) >> 2;
    y <= up ? last_y >> 1 : last_y;
    outside <= used && tensor_end > 36'(ROWS);
  end
  place place_end (
      .clk, .x, .y, .line_stride, .pixel_stride, .group(depth), .base(36'(row)), .address(tensor_end)
  );

  assign request = state == ASK;
  assign valid = state == OFFER;
  assign finished = state == END;
  assign fault = state == FAULT;

  logic [16:0] next_low, next_middle;
  assign next_low = {1'b0, request_address[15:0]} + 17'(layout::DESCRIPTOR_BYTES);
  assign next_middle = {1'b0, request_address[31:16]} + 17'(carry);

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= ASK;
      request_address <= base;
      index <= '0;
      beat <= '0;
      cause <= layout::CAUSE_NONE;
    end else begin
      case (state)
        ASK: if (grant) state <= RECEIVE;
        RECEIVE: begin
          if (data_valid) begin
            beat <= beat + 2'd1;
            if (beat == 2'd3) state <= INSPECT;
          end
          tensor <= '0;
        end
        INSPECT: state <= COLLECT;
        COLLECT: state <= JUDGE;
        JUDGE: begin
          delay_left <= '1;
          state <= FAULT;
          if (bad_version) cause <= layout::CAUSE_VERSION;
          else if (bad_opcode) cause <= layout::CAUSE_OPCODE;
          else if (bad_size) cause <= layout::CAUSE_SIZE;
          else if (bad_geometry) cause <= layout::CAUSE_GEOMETRY;
          else if (bad_alignment) cause <= layout::CAUSE_ALIGNMENT;
          else state <= PLACE;
        end
        PLACE: begin
          delay_left <= delay_left - 4'd1;
          if (delay_left == '0) state <= COMPARE;
        end
        COMPARE: begin
          tensor <= tensor + 2'd1;
          if (outside) begin
            cause <= layout::CAUSE_ADDRESS;
            state <= FAULT;
          end else state <= tensor == 2'd3 ? OFFER : PLACE;
        end
        OFFER: if (ready) state <= NEXT_LOW;
        NEXT_LOW: begin
          request_address[15:0] <= next_low[15:0];
          carry <= next_low[16];
          state <= index + 16'd1 == count ? END : NEXT_MIDDLE;
        end
        NEXT_MIDDLE: begin
          request_address[31:16] <= next_middle[15:0];
          carry <= next_middle[16];
          index <= index + 16'd1;
          state <= NEXT_HIGH;
        end
        NEXT_HIGH: begin
          request_address[39:32] <= request_address[39:32] + 8'(carry);
          state <= ASK;
        end
        default: ;
      endcase
    end
  end
  always_ff @(posedge clk) if (data_valid) descriptor <= {data, descriptor[511:128]};
endmodule
