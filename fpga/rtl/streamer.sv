// Runs ahead of the array: asks for the weights and parameters of the layers to come, in the
// order in which they will be used.
//
// Parameters of an og are asked for before its weights, and data come in the order of requests:
// where the weights are there, so are the parameters.
module streamer #(
    parameter int unsigned BLOCKS = 2,
    parameter int unsigned ENTRIES = 16  // groups of parameters that the engine keeps
) (
    input  logic         clk,
    input  logic         rst,
    input  logic [39:0]  base,

    input  logic         valid,
    output logic         ready,
    input  logic [511:0] descriptor,

    output logic         parameters_request,
    output logic [39:0]  parameters_address,
    output logic [4:0]   parameters_length,
    input  logic         parameters_grant,
    input  logic [1:0]   parameters_freed,   // groups that the drain is done with

    output logic         weights_request,
    output logic [39:0]  weights_address,
    output logic [4:0]   weights_length,
    output logic         weights_narrow,
    input  logic         weights_grant
);
  localparam logic [2:0] IDLE = 3'd0, COUNT = 3'd1, MULTIPLY = 3'd2, PARAMETERS = 3'd3,
      PARAMETERS_ASKED = 3'd4, WEIGHTS = 3'd5, WEIGHTS_ASKED = 3'd6, NEXT = 3'd7;
  localparam int unsigned WIDE_LOG = $clog2(BLOCKS / 2);  // of pixels in a vector

  logic [2:0] state;
  logic narrow, first, first_tile, borrow, last_tile;
  logic [31:0] weights_offset, parameters_offset;
  logic [11:0] width, height, line_vectors;
  logic [8:0] input_groups;
  logic [7:0] kernel_area, ogs;
  logic [3:0] kernel_height, kernel_width;
  logic [15:0] tile;
  logic [23:0] vectors, vectors_left;
  logic [16:0] steps;
  logic [4:0] entries_used;
  logic [16:0] left_low;
  logic [8:0] left_high;

  logic parameters_start, parameters_busy, weights_start, weights_busy;
  assign parameters_start = state == PARAMETERS && !parameters_busy
                            && entries_used <= 5'(ENTRIES - 2);
  assign weights_start = state == WEIGHTS && !weights_busy;

  regions parameter_regions (
      .clk,
      .rst,
      .start(parameters_start),
      .fresh(first),
      .again(1'b0),
      .base,
      .offset(parameters_offset),
      .beats(narrow ? 24'd9 : 24'd18),
      .busy(parameters_busy),
      .valid(parameters_request),
      .ready(parameters_grant),
      .address(parameters_address),
      .length(parameters_length)
  );
  regions weight_regions (
      .clk,
      .rst,
      .start(weights_start),
      .fresh(first && first_tile),
      .again(!first_tile),
      .base,
      .offset(weights_offset),
      .beats(narrow ? {3'd0, steps, 4'd0} : {2'd0, steps, 5'd0}),
      .busy(weights_busy),
      .valid(weights_request),
      .ready(weights_grant),
      .address(weights_address),
      .length(weights_length)
  );

  assign ready = state == IDLE;
  assign left_low = {1'b0, vectors_left[15:0]} - {1'b0, tile};
  assign left_high = {1'b0, vectors_left[23:16]} - 9'(borrow);

  always_ff @(posedge clk) begin
    case (state)
      IDLE: begin
        narrow <= descriptor[layout::CONVOLVE_NARROW];
        weights_offset <= descriptor[layout::CONVOLVE_WEIGHTS_OFFSET+:32];
        parameters_offset <= descriptor[layout::CONVOLVE_PARAMETERS_OFFSET+:32];
        width <= descriptor[layout::CONVOLVE_WIDTH+:12];
        height <= descriptor[layout::CONVOLVE_HEIGHT+:12];
        kernel_height <= descriptor[layout::CONVOLVE_KERNEL_HEIGHT+:4];
        kernel_width <= descriptor[layout::CONVOLVE_KERNEL_WIDTH+:4];
        input_groups <= {1'b0, descriptor[layout::CONVOLVE_SOURCE0_GROUPS+:8]}
                        + {1'b0, descriptor[layout::CONVOLVE_SOURCE1_GROUPS+:8]};
        tile <= descriptor[layout::CONVOLVE_TILE+:16];
        ogs <= descriptor[layout::CONVOLVE_NARROW] ? descriptor[layout::CONVOLVE_GROUPS+:8]
                                           : descriptor[layout::CONVOLVE_GROUPS+:8] >> 1;
        first <= 1'b1;
      end
      COUNT: begin
        line_vectors <= narrow ? 12'((13'(width) + 13'(2 ** (WIDE_LOG + 1) - 1)) >> (WIDE_LOG + 1))
                               : 12'((13'(width) + 13'(2 ** WIDE_LOG - 1)) >> WIDE_LOG);
        kernel_area <= kernel_height * kernel_width;
      end
      MULTIPLY: begin
        vectors <= line_vectors * height;
        steps <= kernel_area * input_groups;
      end
      PARAMETERS: begin
        vectors_left <= vectors;
        first_tile <= 1'b1;
      end
      WEIGHTS: begin
        // A tile that takes all that is left is the last one.
        if (weights_start) begin
          weights_narrow <= narrow;
          vectors_left[15:0] <= left_low[15:0];
          borrow <= left_low[16];
        end
      end
      WEIGHTS_ASKED: begin
        if (borrow) begin
          vectors_left[23:16] <= left_high[7:0];
          borrow <= 1'b0;
        end
        last_tile <= borrow ? left_high[8] : vectors_left == '0;
      end
      NEXT: begin
        first <= 1'b0;
        first_tile <= 1'b0;
        if (last_tile) ogs <= ogs - 8'd1;
      end
      default: ;
    endcase
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
      entries_used <= '0;
    end else begin
      entries_used <= entries_used
          + (parameters_start ? (narrow ? 5'd1 : 5'd2) : 5'd0) - {3'd0, parameters_freed};
      case (state)
        IDLE:
        if (valid && descriptor[layout::CONVOLVE_OPCODE+:8] == layout::OPCODE_CONVOLVE) state <= COUNT;
        COUNT: state <= MULTIPLY;
        MULTIPLY: state <= PARAMETERS;
        PARAMETERS: if (parameters_start) state <= PARAMETERS_ASKED;
        PARAMETERS_ASKED: if (!parameters_busy) state <= WEIGHTS;
        WEIGHTS: if (weights_start) state <= WEIGHTS_ASKED;
        WEIGHTS_ASKED: state <= NEXT;
        default: state <= !last_tile ? WEIGHTS : ogs == 8'd1 ? IDLE : PARAMETERS;
      endcase
    end
  end
endmodule
